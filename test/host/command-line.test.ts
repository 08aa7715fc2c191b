import {spawnSync} from 'node:child_process';
import fc from 'fast-check';
import {expect, test} from 'vitest';
import {parseCommandLine, printCommandLine, redactSecrets} from '../../src/host/command-line.ts';

const word = fc.oneof(
	fc.string(),
	fc.constantFrom('-S', '--S', '-nodefaults', '-drive', '--blockdev', '-', '--', '', '-object', '-hda', '-append'),
	fc.string().map(text => `{"driver":"raw",${text}`),
	fc.string().map(text => `qom-type=secret,data=${text}`),
);

test('any arguments are printed as they were read', () => {
	fc.assert(
		fc.property(fc.array(word), args => {
			expect(printCommandLine(parseCommandLine(args))).toEqual(args);
		}),
	);
});

test('options without an argument do not swallow the next word', () => {
	expect(parseCommandLine(['-S', '-hda', 'a', '--nodefaults', 'b', '-m'])).toEqual([
		{flag: '-S', value: undefined},
		{flag: '-hda', value: 'a'},
		{flag: '--nodefaults', value: undefined},
		{flag: undefined, value: 'b'},
		{flag: '-m', value: undefined},
	]);
});

test('QEMU agrees on which options take an argument', () => {
	const {stdout} = spawnSync('qemu-system-x86_64', ['-help'], {encoding: 'utf8'});
	const bare = [...stdout.matchAll(/^--?([A-Za-z0-9-]+)(?: or -[a-z]+)?(?:\t| {2,}|$)/gm)].map(match => match[1] ?? '');
	expect(bare).toContain('daemonize');
	for (const name of bare.filter(name => name !== 'dtb')) {
		expect(parseCommandLine([`-${name}`, 'next'])).toHaveLength(2);
	}
	const others = [...stdout.matchAll(/^-([A-Za-z0-9-]+) [a-z[]/gm)].map(match => match[1] ?? '');
	expect(others).toContain('blockdev');
	// `-h or -help`, and a line whose columns have run together.
	for (const name of others.filter(name => !['h', 'async-teardown'].includes(name))) {
		expect(parseCommandLine([`-${name}`, 'next'])).toHaveLength(1);
	}
});

test.each([
	['-object', 'secret,id=s0,data=geheim,,2,format=raw', 'secret,id=s0,data=REDACTED,format=raw'],
	[
		'-object',
		'{"qom-type":"secret", "data": "ge\\"heim" ,"id":"s0"}',
		'{"qom-type":"secret", "data": "REDACTED" ,"id":"s0"}',
	],
	['-object', `{'qom-type':'secret','data':'x'}`, `{'qom-type':'secret','data':'REDACTED'}`],
	['-object', '{"qom-type":"secret","d\\u0061ta":"x"}', '{"qom-type":"secret","d\\u0061ta":"REDACTED"}'],
	['-object', 'secret,id=s0,file=/etc/key', 'secret,id=s0,file=/etc/key'],
	['-object', 'rng-random,filename=/dev/urandom,key-secret=x', 'rng-random,filename=/dev/urandom,key-secret=REDACTED'],
	['-drive', 'file=a,,b,password=x,if=none', 'file=a,,b,password=REDACTED,if=none'],
	['-drive', 'file.driver=https,file.cookie=x', 'file.driver=https,file.cookie=REDACTED'],
	['-drive', 'file=https://me:geheim@host/a@b', 'file=https://me:REDACTED@host/a@b'],
	['-drive', 'file=iscsi://me%geheim@host/iqn/0', 'file=iscsi://me%REDACTED@host/iqn/0'],
	[
		'-drive',
		'file=rbd:pool/image:id=admin:key=AQ==\\::conf=/etc/c',
		'file=rbd:pool/image:id=admin:key=REDACTED:conf=/etc/c',
	],
	['-drive', 'file=json:{"driver":"https",,"cookie":"x"}', 'file=json:{"driver":"https",,"cookie":"REDACTED"}'],
	['-blockdev', '{"driver":"qcow2","encrypt":{"key-secret":"s0"}}', '{"driver":"qcow2","encrypt":{"key-secret":"s0"}}'],
	['-hda', 'https://me:geheim@host/a', 'https://me:REDACTED@host/a'],
	['-vnc', ':1,password=on', ':1,password=on'],
	['-vnc', ':1,password', ':1,password'],
	['-vnc', ':1,password=geheim', ':1,password=REDACTED'],
	['-spice', 'port=1,password=on', 'port=1,password=REDACTED'],
	['-spice', 'port=1,password-secret=s0', 'port=1,password-secret=s0'],
	['-iscsi', 'user=u,password=p', 'user=u,password=REDACTED'],
	['-append', 'root=/dev/vda,password=x', 'root=/dev/vda,password=x'],
	['-device', '{"driver":"scsi-hd","wwn":5764611469514216599}', '{"driver":"scsi-hd","wwn":5764611469514216599}'],
])('%s %s becomes %s', (flag, value, redacted) => {
	expect(redactSecrets(['-S', flag, value, '-nodefaults'])).toEqual(['-S', flag, redacted, '-nodefaults']);
	expect(redactSecrets(['/usr/bin/qemu-system-x86_64', flag, value])).toEqual([
		'/usr/bin/qemu-system-x86_64',
		flag,
		redacted,
	]);
});

const value = fc.string({unit: fc.constantFrom('a', ',', '=', '"', '\\', '{', ' ', 'é')});

test('nothing but the secret changes, however it is surrounded', () => {
	const escape = (text: string): string => text.replaceAll(',', ',,');
	fc.assert(
		fc.property(value, value, value, (before, secret, after) => {
			const withSecret = (data: string): string =>
				`secret,id=${escape(before)},data=${escape(data)},x=${escape(after)}`;
			expect(redactSecrets(['-object', withSecret(secret)])).toEqual(['-object', withSecret('REDACTED')]);
			const json = (data: string): string =>
				`{ "id" :${JSON.stringify(before)}, "data":${JSON.stringify(data)},"n":[1.0, "data"],"x":${JSON.stringify(after)}}`;
			expect(redactSecrets(['-object', json(secret)])).toEqual(['-object', json('REDACTED')]);
		}),
	);
});

test('arguments without secrets stay as they are, and redacting twice changes nothing', () => {
	fc.assert(
		fc.property(fc.array(word), args => {
			const once = redactSecrets(args);
			expect(redactSecrets(once)).toEqual(once);
			if (!args.some(arg => /data|password|cookie|key|:/.test(arg))) expect(once).toEqual(args);
		}),
	);
});
