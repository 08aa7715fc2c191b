import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFile, stat} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {startQemu} from '../support/real-qemu.ts';
import {runQuiesce, startQuiesce} from './run-quiesce.ts';
import {guestName, temporaryFolder} from './scene.ts';

function lines(text: string): unknown[] {
	return text
		.trim()
		.split('\n')
		.map(line => JSON.parse(line) as unknown);
}

test('a command returns what QEMU returns, and what its schema refuses is not sent', async () => {
	const qemu = await startQemu('-machine', 'q35', '-S');
	const send = (...words: string[]) => runQuiesce(['qmp', '--qmp', qemu.qmpPath, ...words]);
	const status = await send('query-status');
	expect(status).toMatchObject({code: 0, stderr: ''});
	expect(lines(status.stdout)).toEqual([expect.objectContaining({status: 'prelaunch', running: false})]);
	const added = await send('blockdev-add', 'driver=null-co', 'node-name=spare', 'size=1048576', 'read-zeroes=on');
	expect(added).toMatchObject({code: 0, stdout: '{}\n'});
	const nodes = await send('query-named-block-nodes', '{"flat": true}');
	expect(lines(nodes.stdout)).toEqual([[expect.objectContaining({'node-name': 'spare'})]]);

	const wrong = await send('blockdev-add', 'drivr=null-co');
	expect(wrong).toMatchObject({code: 2, stdout: ''});
	expect(wrong.stderr).toContain(
		'blockdev-add was not sent: driver is missing; drivr: there is no drivr here: did you mean driver?',
	);
	const refused = await send('blockdev-del', 'node-name=other');
	expect(refused).toMatchObject({code: 21, stdout: ''});
	expect(refused.stderr).toContain('QEMU refused blockdev-del');
});

test('an event is waited for, that is caused by the command or comes by itself', async () => {
	const qemu = await startQemu('-machine', 'q35', '-S');
	const args = ['qmp', '--qmp', qemu.qmpPath];
	const resumed = await runQuiesce([...args, 'cont', '--wait', 'STOP', '--wait', 'RESUME']);
	expect(lines(resumed.stdout)).toEqual([{}, expect.objectContaining({event: 'RESUME'})]);
	const late = await runQuiesce([...args, '--wait', 'STOP', '--timeout', '100ms']);
	expect(late).toMatchObject({code: 1, stdout: ''});
	expect(late.stderr).toContain('no STOP came within 0.1 s');
	const other = await runQuiesce([...args, 'quit', '--wait', 'SHUTDOWN,guest=true', '--timeout', '5s']);
	expect(other.code).toBe(23);
	expect((await runQuiesce([...args, '--wait', 'STOPP'])).code).toBe(20);
});

test('lines are carried out one after the other, each with its answer, and events in between', async () => {
	const qemu = await startQemu('-machine', 'q35', '-S');
	const input = [
		'# words, or JSON as QMP has it',
		'query-name',
		'{"execute": "cont", "id": 7}',
		'blockdev-del node-name=other',
		'blockdev-add driver=raw file={"driver": "null-co", "size": 512} node-name="a"',
		'nonsense a=b',
		'{"execute": "stop", "argument": {}}',
		'{"exe',
		"query-named-block-nodes flat='on'",
	].join('\n');
	const ended = await runQuiesce(['qmp', '--qmp', qemu.qmpPath], {input});
	expect(ended.code).toBe(21);
	expect(lines(ended.stdout)).toEqual([
		{return: {}},
		expect.objectContaining({event: 'RESUME'}),
		{return: {}, id: 7},
		{error: {class: 'GenericError', desc: expect.stringContaining('other') as string}},
		{return: {}},
		{error: {class: 'NotSent', desc: 'nonsense was not sent: this QEMU has no command nonsense'}},
		{error: {class: 'NotSent', desc: 'there is no argument here, but execute, arguments and id'}},
		{error: {class: 'NotSent', desc: 'not JSON: {"exe'}},
		{return: expect.arrayContaining([expect.objectContaining({'node-name': 'a'})]) as unknown[]},
	]);
	const gone = await runQuiesce(['qmp', '--qmp', qemu.qmpPath], {input: 'quit\nquery-status\nquery-status\n'});
	expect(gone.code).toBe(23);
});

test('types of all commands are printed, of the QEMU that runs', async () => {
	const qemu = await startQemu('-machine', 'q35');
	const {code, stdout} = await runQuiesce(['qmp', '--qmp', qemu.qmpPath, 'types']);
	expect(code).toBe(0);
	expect(stdout).toContain('export interface QmpCommands {');
	expect(stdout).toContain('\t"query-status": {arguments: undefined; return: QueryStatusResult};');
});

test('a monitor that another client has is told of', async () => {
	const qemu = await startQemu('-machine', 'q35');
	const held = await QmpConnection.open({unix: qemu.qmpPath});
	const busy = await runQuiesce(['qmp', '--qmp', qemu.qmpPath, 'query-status']);
	expect(busy.code).toBe(20);
	expect(busy.stderr).toContain('monitor busy');
	await held.close();
	expect((await runQuiesce(['qmp', '--qmp', qemu.qmpPath, 'query-status'])).code).toBe(0);
});

/** The program on a terminal of its own. */
function onTerminal(args: readonly string[], env: NodeJS.ProcessEnv) {
	const program = join(import.meta.dirname, '../../bin/quiesce.js');
	const child = spawn('script', ['--quiet', '--flush', '--command', [program, ...args].join(' '), '/dev/null'], {
		env: {...process.env, ...env, TERM: 'xterm'},
		stdio: ['pipe', 'pipe', 'inherit'],
	});
	let screen = '';
	child.stdout.on('data', part => (screen += String(part)));
	return {
		ended: once(child, 'exit'),
		type: (keys: string) => child.stdin.write(keys),
		shows: (what: RegExp | string) => expect.poll(() => screen, {timeout: 10_000}).toMatch(what),
	};
}

test('the shell completes, prints events as they come, and keeps a history without secrets', async () => {
	await using folder = await temporaryFolder();
	const name = guestName('shell');
	const qemu = await startQemu('-machine', 'q35', '-S', '-name', name);
	const terminal = onTerminal(['qmp', '--qmp', qemu.qmpPath], {XDG_STATE_HOME: folder.path});
	await terminal.shows(`${name}> `);
	terminal.type('query-statu');
	await terminal.shows('query-statu');
	terminal.type('\t');
	await terminal.shows('query-status ');
	terminal.type('\r');
	await terminal.shows('"status": "prelaunch"');
	terminal.type('object-add qom-type=secret id=s data=hunter2\r');
	await terminal.shows(/\{\}/);
	terminal.type('blockdev-ad\r');
	await terminal.shows('did you mean blockdev-add');
	terminal.type('help blockdev-del\r');
	await terminal.shows(/node-name\s+string/);
	terminal.type('cont\r');
	await terminal.shows('"event":"RESUME"');
	terminal.type('\u0004');
	expect(await terminal.ended).toEqual([0, null]);
	const history = join(folder.path, 'quiesce/qmp-history');
	expect((await readFile(history, 'utf8')).split('\n')).toEqual([
		'cont',
		'help blockdev-del',
		'blockdev-ad',
		'query-status ',
	]);
	expect((await stat(history)).mode & 0o777).toBe(0o600);
});

test('events are printed as they come, until enough came or a signal does', async () => {
	const qemu = await startQemu('-machine', 'q35', '-S');
	const args = ['events', `web1=${qemu.qmpPath}`, '--qmp', qemu.secondQmpPath];
	const counted = startQuiesce([...args, '--count', '2']);
	const both = lines((await counted.ended).stdout);
	expect(both).toEqual(
		expect.arrayContaining([
			expect.objectContaining({message_type: 'connected', vm: 'web1'}),
			expect.objectContaining({message_type: 'connected', vm: qemu.secondQmpPath}),
		]),
	);
	const listening = startQuiesce(['events', `web1=${qemu.qmpPath}`, '--event', 'RESUME']);
	await listening.says(/connected/);
	await runQuiesce(['qmp', '--qmp', qemu.secondQmpPath, 'cont']);
	await listening.says(/"event":"RESUME","data":\{\}/);
	listening.kill('SIGINT');
	expect(await listening.ended).toMatchObject({code: 0, stderr: 'no longer listening\n'});
	expect((await runQuiesce(['events'])).code).toBe(2);
});
