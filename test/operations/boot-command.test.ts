import {execFile, execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {promisify} from 'node:util';
import fc from 'fast-check';
import {lastValueFrom} from 'rxjs';
import {describe, expect, onTestFinished, test} from 'vitest';
import {shellQuote} from '../../src/host/shell.ts';
import {bootCommand, formatBootCommand, type RecordedMachine} from '../../src/operations/boot-command.ts';
import {captureMachine} from '../../src/operations/capture-machine.ts';
import {openVm} from '../../src/operations/vm-session.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import type {Machine} from '../../src/repository/machine.ts';
import {temporaryFolder} from '../host/fake-proc.ts';

const run = promisify(execFile);

interface Scenario {
	/** Without the folder: `create` arguments of qemu-img. */
	readonly images: readonly string[];
	/** `@` stands for the folder of the images. */
	readonly args: string;
	/** What each disk is restored as, by its name. */
	readonly formats: Readonly<Record<string, 'raw' | 'qcow2'>>;
	readonly machine?: string;
	readonly notes?: readonly RegExp[];
}

const scenarios: Record<string, Scenario> = {
	'-drive with options of qcow2 alone, to raw': {
		images: ['-f qcow2 @/a.qcow2 4M', '-f raw @/b.raw 4M'],
		args: `-drive if=virtio,file=@/a.qcow2,format=qcow2,lazy-refcounts=on,l2-cache-size=1M,overlap-check=none,discard=unmap,cache=none
			-drive file=@/b.raw,format=raw,if=virtio,aio=threads,file.locking=off`,
		formats: {virtio0: 'raw', virtio1: 'qcow2'},
	},
	'-drive without a format, and one with the part of a file': {
		images: ['-f qcow2 @/a.qcow2 4M', '-f raw @/b.raw 4M'],
		args: `-drive if=none,id=a,file=@/a.qcow2,lazy-refcounts=on -device virtio-blk-pci,id=vda,drive=a
			-drive if=none,id=b,file=@/b.raw,format=raw,offset=1M,size=2M -device virtio-blk-pci,drive=b`,
		formats: {vda: 'raw', b: 'raw'},
	},
	'-drive with dotted keys': {
		images: ['-f qcow2 @/a.qcow2 4M', '-f raw @/b.raw 4M'],
		args: `-drive if=none,id=a,driver=qcow2,file.driver=file,file.filename=@/a.qcow2,file.node-name=store,cache.direct=on
			-device virtio-scsi-pci -device scsi-hd,drive=a,id=sda
			-drive if=none,id=b,format=raw,file.driver=raw,file.file.driver=file,file.file.filename=@/b.raw
			-device nvme,serial=b,drive=b,id=nvme`,
		formats: {sda: 'raw', nvme: 'qcow2'},
	},
	'-blockdev in two nodes': {
		images: ['-f qcow2 @/a.qcow2 4M', '-f raw @/b.raw 4M', '-f qcow2 @/c.qcow2 4M'],
		args: `-blockdev driver=file,node-name=a-file,filename=@/a.qcow2,discard=unmap,aio=threads,cache.direct=off
			-blockdev qcow2,node-name=a-format,file=a-file,lazy-refcounts=on,cache-size=2097152 -device virtio-blk-pci,id=vda,drive=a-format
			-blockdev driver=file,node-name=b-file,filename=@/b.raw
			-blockdev driver=raw,node-name=b-format,file=b-file,offset=1048576,size=1048576 -device virtio-blk-pci,drive=b-format
			-blockdev driver=file,node-name=c-file,filename=@/c.qcow2
			-blockdev driver=qcow2,node-name=c-format,file=c-file,l2-cache-size=1048576 -device virtio-blk-pci,id=vdc,drive=c-format`,
		formats: {'vda': 'raw', 'peripheral-anon/device[0]/virtio-backend': 'qcow2', 'vdc': 'qcow2'},
	},
	'-blockdev in one, dotted and as JSON, below filters': {
		images: ['-f qcow2 @/a.qcow2 4M', '-f qcow2 @/b.qcow2 4M'],
		args: `-object throttle-group,id=tg
			-blockdev driver=throttle,throttle-group=tg,node-name=top,file.driver=qcow2,file.node-name=a,file.file.driver=file,file.file.filename=@/a.qcow2
			-device virtio-blk-pci,id=vda,drive=top
			-blockdev {"driver":"copy-on-read","node-name":"cor","file":{"driver":"qcow2","cache":{"direct":false},"file":{"driver":"file","filename":"@/b.qcow2","locking":"off"}}}
			-device {"driver":"virtio-blk-pci","id":"vdb","drive":"cor"}`,
		formats: {vda: 'raw', vdb: 'raw'},
	},
	'a backing chain of nodes': {
		images: [
			'-f qcow2 @/base.qcow2 4M',
			'-f qcow2 -b base.qcow2 -F qcow2 @/top.qcow2',
			'-f qcow2 -b base.qcow2 -F qcow2 @/two.qcow2',
		],
		args: `-blockdev driver=file,node-name=base-file,filename=@/base.qcow2,read-only=on,auto-read-only=on
			-blockdev driver=qcow2,node-name=base,file=base-file,read-only=on
			-blockdev driver=file,node-name=top-file,filename=@/top.qcow2
			-blockdev driver=qcow2,node-name=top,file=top-file,backing=base -device virtio-blk-pci,id=vda,drive=top
			-blockdev {"driver":"qcow2","node-name":"two","file":{"driver":"file","filename":"@/two.qcow2"},"backing":null} -device virtio-blk-pci,id=vdb,drive=two`,
		formats: {vda: 'qcow2', vdb: 'raw'},
		notes: [/^-blockdev base is left out/, /^-blockdev base-file is left out/],
	},
	'a node that is the file itself': {
		images: ['-f raw @/a.raw 4M', '-f raw @/b.raw 4M'],
		args: `-blockdev driver=file,node-name=a,filename=@/a.raw,locking=off,discard=unmap -device virtio-blk-pci,id=vda,drive=a
			-blockdev driver=file,node-name=b,filename=@/b.raw -device virtio-blk-pci,id=vdb,drive=b`,
		formats: {vda: 'qcow2', vdb: 'raw'},
	},
	'short forms': {
		images: ['-f raw @/a.raw 4M', '-f qcow2 @/b.qcow2 4M', '-f raw @/c.raw 4M', '-f raw @/fw.raw 4M'],
		args: '-hdb @/b.qcow2 -hdc @/c.raw -pflash @/fw.raw @/a.raw',
		machine: 'pc',
		formats: {'ide0-hd0': 'qcow2', 'ide0-hd1': 'raw', 'pflash0': 'raw'},
		notes: [/^disk ide1-hd0 was not restored: the command still uses .*c\.raw/],
	},
	'firmware': {
		images: ['-f raw @/code.raw 4M', '-f qcow2 @/vars.qcow2 4M'],
		args: `-drive if=pflash,unit=0,format=raw,readonly=on,file=@/code.raw -drive if=pflash,unit=1,format=qcow2,file=@/vars.qcow2`,
		formats: {pflash0: 'raw', pflash1: 'raw'},
	},
	'firmware as nodes': {
		images: ['-f qcow2 @/code.qcow2 4M'],
		args: '-blockdev driver=qcow2,node-name=fw,read-only=on,file.driver=file,file.filename=@/code.qcow2',
		machine: 'q35,pflash0=fw',
		formats: {'system.flash0': 'raw'},
	},
};

/** `-daemonize` returns once QEMU serves its monitor. */
async function talk<Answer>(socket: string, ask: (qmp: QmpConnection) => Promise<Answer>): Promise<Answer> {
	const qmp = await QmpConnection.open({unix: socket});
	try {
		return await ask(qmp);
	} finally {
		await qmp.close();
	}
}

/** QEMU closes its monitors after its images. */
async function quit(socket: string): Promise<void> {
	await talk(socket, async qmp => {
		const gone = lastValueFrom(qmp.events$).catch(() => undefined);
		await qmp.execute('quit');
		await gone;
	});
}

async function capture(socket: string): Promise<Machine> {
	const monitor = {unix: socket};
	const vm = await openVm({qmp: monitor, name: 'vm'});
	try {
		return (await captureMachine(vm, await vm.readGraph())).machine;
	} finally {
		await vm.qmp.close();
	}
}

const awkward = `re,stored 'it' a=b 08:00`;

describe.each(Object.entries(scenarios))('%s', (_, {images, args, formats, machine = 'q35', notes = []}) => {
	test('boots from the restored files', async () => {
		const folder = temporaryFolder();
		const inFolder = (text: string): string => text.replaceAll('@', folder);
		for (const image of images)
			execFileSync('qemu-img', ['create', '-q', ...inFolder(image).split(' ')], {cwd: folder});
		const socket = path.join(folder, 'qmp.sock');
		const common = `-M ${machine} -accel tcg -nodefaults -display none -S -daemonize -qmp unix:${socket},server=on,wait=off`;
		await run('qemu-system-x86_64', inFolder(`${common} ${args}`).split(/\s+/));
		onTestFinished(() => quit(socket).catch(() => undefined));
		const recorded = await capture(socket);
		await quit(socket);

		const target = path.join(folder, awkward);
		fs.mkdirSync(target);
		const restored = Object.entries(formats).map(([disk, format], index) => {
			const file = path.join(target, `${index}.${format}`);
			execFileSync('qemu-img', ['create', '-q', '-f', format, file, '4M']);
			return {disk, path: file, format};
		});
		const kept = recorded.disks.filter(({name}) => !(name in formats)).map(({filename}) => path.basename(filename!));
		// What the restored VM does not need is not there any more.
		for (const file of fs.readdirSync(folder).filter(name => /\.(raw|qcow2)$/.test(name) && !kept.includes(name))) {
			fs.rmSync(path.join(folder, file));
		}

		const boot = bootCommand(recorded, restored);
		for (const note of notes) expect(boot.notes).toContainEqual(expect.stringMatching(note));
		expect(boot.notes.filter(note => /by hand/.test(note))).toEqual([]);
		await run('sh', ['-c', formatBootCommand(boot.argv)]);
		onTestFinished(() => quit(socket));

		const booted = await capture(socket);
		for (const {disk, path: file, format} of restored) {
			const found = booted.disks.find(({name}) => name === disk);
			expect(found?.filename).toBe(file);
			// A storage without a format is raw.
			expect([format, format === 'raw' ? 'file' : format]).toContain(found?.format);
		}
		expect(booted.disks.map(({name}) => name)).toEqual(recorded.disks.map(({name}) => name));
		expect(booted.machineType).toBe(recorded.machineType);
		const nodes = await talk(socket, qmp => qmp.execute('query-named-block-nodes', {flat: true}));
		const used = new Set(nodes.filter(({drv}) => drv === 'file').map(({file}) => path.basename(file)));
		expect([...used].sort()).toEqual([...restored.map(({path: file}) => path.basename(file)), ...kept].sort());
	});
});

const machineOf = (commandLine: string | null, overrides: Partial<RecordedMachine> = {}): RecordedMachine => ({
	name: 'web',
	machineType: 'pc-q35-7.2',
	binary: '/usr/bin/qemu-system-x86_64',
	commandLine: commandLine === null ? null : commandLine.split(' ').filter(word => word !== ''),
	disks: [{name: 'vda', filename: '/old/a.qcow2', format: 'qcow2', nodeNames: ['vda-format', 'drive-a']}],
	...overrides,
});
const raw = {disk: 'vda', path: '/new/vda.raw', format: 'raw'};
const qcow2 = {disk: 'vda', path: '/new/vda.qcow2', format: 'qcow2'};
const argsOf = (...parameters: Parameters<typeof bootCommand>): string =>
	bootCommand(...parameters)
		.argv.slice(1)
		.join(' ');

test.each([
	[
		'the id of a device, whatever file a snapshot had made of it',
		'-drive file=/old/base.qcow2,id=x,if=none -device virtio-blk-pci,drive=x,id=vda',
		'file=/new/vda.raw',
	],
	['the id of a drive', '-drive id=drive-a,file=/old/base.qcow2,format=qcow2', 'file=/new/vda.raw,format=raw'],
	['the name of a node', '-drive node-name=vda-format,file=/old/base.qcow2', 'file=/new/vda.raw'],
	['a file name written in another way', '-drive file=/old//a.qcow2', 'file=/new/vda.raw'],
])('a disk is found by %s', (_, line, expected) => {
	const boot = bootCommand(machineOf(line), [raw]);
	expect(boot.argv.join(' ')).toContain(expected);
	expect(boot.argv.join(' ')).toContain('format=raw');
});

test.each([
	['-drive file=nbd://host/x,id=vda,format=qcow2,if=none', '-drive file=/new/vda.qcow2,id=vda,format=qcow2,if=none'],
	[
		'-drive file.driver=nbd,file.host=h,file.port=1,id=vda',
		'-drive id=vda,format=qcow2,file.filename=/new/vda.qcow2,file.driver=file',
	],
	[
		'-blockdev {"driver":"raw","node-name":"vda","file":{"driver":"rbd","pool":"p","image":"i","server":[{"host":"h","port":"1"}],"node-name":"s"}}',
		'-blockdev {"driver":"qcow2","node-name":"vda","file":{"driver":"file","node-name":"s","filename":"/new/vda.qcow2"}}',
	],
	[
		'-blockdev driver=iscsi,node-name=vda,portal=p,target=t,lun=0,transport=tcp,cache.direct=on',
		'-blockdev driver=qcow2,node-name=vda,cache.direct=on,file.filename=/new/vda.qcow2,file.driver=file',
	],
	[
		'-drive file=a,,b,id=vda,throttling.iops-total=5,format=raw,backing.driver=null-co',
		'-drive file=/new/vda.qcow2,id=vda,throttling.iops-total=5,format=qcow2',
	],
])('%s becomes %s', (line, expected) => {
	expect(argsOf(machineOf(`-machine pc-q35-7.2 ${line}`), [qcow2])).toBe(`-machine pc-q35-7.2 ${expected}`);
});

test.each([
	['-blockdev driver=luks,node-name=vda,key-secret=s,file.driver=file,file.filename=/old/a'],
	[
		'-blockdev driver=qcow2,node-name=vda,encrypt.format=luks,encrypt.key-secret=s,file.driver=file,file.filename=/old/a',
	],
])('%s is replaced by an image that is not encrypted', line => {
	const boot = bootCommand(machineOf(`-M pc-q35-7.2 ${line}`), [qcow2]);
	expect(boot.argv.at(-1)).toBe('driver=qcow2,node-name=vda,file.driver=file,file.filename=/new/vda.qcow2');
	expect(boot.notes).toEqual(['disk vda was encrypted; /new/vda.qcow2 is not']);
});

test('a block device is opened as one', () => {
	const line = '-blockdev driver=file,filename=/old/a.qcow2,node-name=f -blockdev driver=qcow2,file=f,node-name=vda';
	expect(argsOf(machineOf(line), [{...raw, path: '/dev/vg0/web'}])).toContain(
		'-blockdev driver=host_device,filename=/dev/vg0/web,node-name=f -blockdev driver=raw,file=f,node-name=vda',
	);
});

test.each([
	['-M q35,accel=kvm', 'pc-q35-7.2', '-M pc-q35-7.2,accel=kvm'],
	['-machine type=pc', 'pc-i440fx-7.2', '-machine type=pc-i440fx-7.2'],
	['-machine virt,gic-version=3', 'virt-10.0', '-machine virt-10.0,gic-version=3'],
	['-machine pc-q35-6.0', 'pc-q35-6.0', '-machine pc-q35-6.0'],
	['-machine accel=kvm -M q35', 'pc-q35-7.2', '-machine accel=kvm -M pc-q35-7.2'],
	['-m 1G', 'pc-i440fx-7.2', '-machine pc-i440fx-7.2 -m 1G'],
	['-M pc', 'pc-q35-7.2', '-M pc'],
	['-M q35', null, '-M q35'],
])('%s of a %s starts as %s', (line, machineType, expected) => {
	expect(argsOf(machineOf(line, {machineType, disks: []}), [])).toBe(expected);
});

test('what would load another state is left out, all else stays as it was written', () => {
	const line = `-M pc-q35-7.2 -S --daemonize -incoming defer -loadvm before -device {"wwn":5764611469514216599, "driver":"x"} -hdb /b -append file=/old/a.qcow2`;
	const boot = bootCommand(machineOf(line, {disks: []}), []);
	expect(boot.argv.slice(1).join(' ')).toBe(
		`-M pc-q35-7.2 -S --daemonize -device {"wwn":5764611469514216599, "driver":"x"} -hdb /b -append file=/old/a.qcow2`,
	);
	expect(boot.notes.join('\n')).toMatch(
		/-incoming defer is left out(.|\n)*-loadvm before is left out(.|\n)*-S is kept/,
	);
});

test('what has to be done by hand is said', () => {
	const {notes} = bootCommand(
		machineOf('-object secret,id=s,data=REDACTED -netdev tap,fd=30,id=n -qmp unix:/run/q,server=on', {
			disks: [
				{name: 'vda', filename: '/old/a.qcow2', format: 'qcow2', nodeNames: []},
				{name: 'vdb', filename: '/old/b.qcow2', format: 'qcow2', nodeNames: []},
			],
			binary: null,
		}),
		[raw],
	);
	expect(notes).toEqual([
		expect.stringContaining('is a guess'),
		'disk vda is not on the command line in a known way: add /new/vda.raw (raw) by hand',
		'disk vdb was not restored: the command still uses /old/b.qcow2',
		expect.stringContaining('REDACTED'),
		expect.stringContaining('fd=…'),
		expect.stringContaining('/run/q'),
	]);
});

test('without a command line there is a generic one, which QEMU takes', async () => {
	const folder = temporaryFolder();
	const file = path.join(folder, 'a,b.qcow2');
	execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, '4M']);
	const machine = machineOf(null, {name: 'a,b', binary: 'qemu-system-x86_64'});
	const {argv, notes} = bootCommand(machine, [{disk: 'vda', path: file, format: 'qcow2'}]);
	expect(notes).toEqual([expect.stringContaining('generic')]);
	const socket = path.join(folder, 'qmp.sock');
	const more = ['-S', '-daemonize', '-display', 'none', '-qmp', `unix:${socket},server=on,wait=off`];
	await run('sh', ['-c', formatBootCommand([...argv, ...more])]);
	onTestFinished(() => quit(socket));
	const {inserted} = (await talk(socket, qmp => qmp.execute('query-block'))).find(({device}) => device === 'virtio0')!;
	expect(inserted).toMatchObject({file, drv: 'qcow2'});
	expect(await talk(socket, qmp => qmp.execute('query-name'))).toEqual({name: 'a,b'});
});

test('the printed command has an option a line, and is short where it can be', () => {
	const long = `file=/a/${'long/'.repeat(16)}name`;
	expect(formatBootCommand(['/usr/bin/kvm', '-S', '-name', 'my vm', '-drive', long, 'disk.img'])).toBe(
		['/usr/bin/kvm', '  -S', "  -name 'my vm'", '  -drive', `    ${long}`, '  disk.img'].join(' \\\n'),
	);
});

test('any words come out of a shell as they went in', () => {
	const word = fc.string({unit: 'binary'}).map(text => text.replaceAll('\0', '').toWellFormed());
	fc.assert(
		fc.property(fc.array(word, {minLength: 1, maxLength: 20}), words => {
			const printed = execFileSync('sh', ['-c', `printf '%s\\0' ${words.map(shellQuote).join(' ')}`], {
				encoding: 'utf8',
			});
			expect(printed).toBe(words.map(text => `${text}\0`).join(''));
			const command = formatBootCommand(['env', 'printf', '%s\\0', ...words.map(text => `x${text}`)]);
			expect(execFileSync('sh', ['-c', command], {encoding: 'utf8'})).toBe(words.map(text => `x${text}\0`).join(''));
		}),
		{numRuns: 50},
	);
});

test('a program whose name looks like an assignment is run all the same', () => {
	expect(formatBootCommand(['a=b'])).toBe("'a=b'");
});

test('no recorded machine makes it fail', () => {
	const word = fc.oneof(
		fc.string(),
		fc.constantFrom(
			'-drive',
			'-blockdev',
			'-device',
			'-hda',
			'-M',
			'-machine',
			'driver=raw',
			'{"driver":"raw","file":"x"}',
			'driver=raw,file=x,node-name=x',
			'id=vda',
			'file=/old/a.qcow2',
		),
	);
	fc.assert(
		fc.property(fc.array(word), fc.constantFrom(raw, qcow2), (words, file) => {
			expect(bootCommand({...machineOf(''), commandLine: words}, [file]).argv[0]).toBe('/usr/bin/qemu-system-x86_64');
		}),
	);
});
