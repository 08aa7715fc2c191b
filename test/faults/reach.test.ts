import {chmod, chown, mkdir, writeFile} from 'node:fs/promises';
import {once} from 'node:events';
import net from 'node:net';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {lastOf, runQuiesce, startQuiesce} from '../cli/run-quiesce.ts';
import {temporaryFolder} from '../cli/scene.ts';
import {startQemu} from '../support/real-qemu.ts';
import {withoutPrivilege} from '../support/without-privilege.ts';

async function backup(qmp: string, ...more: string[]) {
	await using folder = await temporaryFolder();
	const ended = await runQuiesce(['backup', '--qmp', qmp, '-r', folder.path, '--json', '--name', 'vm', ...more]);
	return {...ended, error: lastOf(ended)};
}

/** A server that answers each connection with these bytes, or with nothing. */
async function listen(folder: string, greeting: string | undefined) {
	const path = join(folder, 'any.sock');
	const server = net.createServer(socket => {
		socket.on('error', () => undefined);
		if (greeting !== undefined) socket.write(greeting);
	});
	server.listen(path);
	await once(server, 'listening');
	return {path, connected: once(server, 'connection'), [Symbol.dispose]: () => server.close()};
}

test('a monitor that does not exist is named, with what to try', async () => {
	const {code, error} = await backup('/nowhere/qmp.sock');
	expect(code).toBe(20);
	expect(error).toMatchObject({
		message_type: 'exit_error',
		code: 'UNREACHABLE',
		exit_code: 20,
		message: 'monitor unix:/nowhere/qmp.sock does not exist',
		hint: expect.stringContaining('quiesce discover') as string,
	});
});

test('a file that is no socket is told from one that nobody serves', async () => {
	await using folder = await temporaryFolder();
	const file = join(folder.path, 'file');
	await writeFile(file, '');
	expect((await backup(file)).error).toMatchObject({
		code: 'UNREACHABLE',
		message: `monitor unix:${file} is not a socket`,
	});
	const qemu = await startQemu();
	await qemu.kill();
	expect((await backup(qemu.qmpPath)).error).toMatchObject({
		code: 'UNREACHABLE',
		message: `nothing listens on monitor unix:${qemu.qmpPath}`,
	});
});

test('what is not QMP is called that: a server that babbles, and the agent of a VM', async () => {
	await using folder = await temporaryFolder();
	using server = await listen(folder.path, 'HTTP/1.1 400 Bad Request\r\n\r\n');
	const babble = await backup(server.path);
	expect(babble).toMatchObject({code: 20, error: {code: 'UNREACHABLE'}});
	expect(babble.error['message']).toMatch(/is not a QMP monitor/);
	expect(babble.ms).toBeLessThan(8_000);
	const port = [
		...['-machine', 'q35', '-device', 'virtio-serial', '-chardev', 'socket,id=qga,path=qga.sock,server=on,wait=off'],
		...['-device', 'virtserialport,chardev=qga,name=org.qemu.guest_agent.0'],
	];
	const qemu = await startQemu(...port);
	const agent = await backup(join(qemu.dir, 'qga.sock'));
	expect(agent).toMatchObject({code: 20, error: {code: 'UNREACHABLE'}});
	expect(agent.error['hint']).toMatch(/not a QMP socket/);
});

test('a monitor that another client holds is said to be busy', async () => {
	const qemu = await startQemu();
	const holder = await QmpConnection.open({unix: qemu.qmpPath});
	try {
		const {code, error} = await backup(qemu.qmpPath);
		expect(code).toBe(20);
		expect(error['message']).toContain('monitor busy');
		expect(error['hint']).toContain('second monitor');
	} finally {
		await holder.close();
	}
});

test("a monitor of another user's is refused in words", async () => {
	const qemu = await startQemu('-name', 'private');
	await chown(qemu.qmpPath, 65534, 65534);
	await chmod(qemu.qmpPath, 0o600);
	const ended = await runQuiesce(['inspect', '--qmp', qemu.qmpPath, '--json'], {under: withoutPrivilege});
	expect(ended.code).toBe(20);
	expect(lastOf(ended)).toMatchObject({
		message: `permission denied on monitor unix:${qemu.qmpPath}`,
		hint: 'Run as root or as the user that QEMU runs as.',
	});
});

test('a monitor that says nothing is waited for no longer than 5 s', async () => {
	await using folder = await temporaryFolder();
	using server = await listen(folder.path, undefined);
	const run = startQuiesce(['inspect', '--qmp', server.path]);
	await server.connected;
	const connected = performance.now();
	const {code, stderr} = await run.ended;
	expect(performance.now() - connected).toBeLessThan(5_000);
	expect(code).toBe(20);
	expect(stderr).toContain('monitor busy');
});

test('Ctrl-C ends the wait for a monitor that says nothing', async () => {
	await using folder = await temporaryFolder();
	using server = await listen(folder.path, undefined);
	const run = startQuiesce(['inspect', '--qmp', server.path]);
	await server.connected;
	run.kill('SIGINT');
	expect(await run.ended).toMatchObject({code: 130});
});

test('a name that no VM has is a mistake of the call', async () => {
	const ended = await runQuiesce(['inspect', 'no-such-vm', '--json']);
	expect(ended.code).toBe(2);
	expect(lastOf(ended)).toMatchObject({code: 'USAGE', message: expect.stringContaining('no-such-vm') as string});
});

test('a runtime folder that cannot be made ends the run before anything is begun', async () => {
	await using folder = await temporaryFolder();
	await mkdir(join(folder.path, 'repository'));
	const file = join(folder.path, 'file');
	await writeFile(file, '');
	const qemu = await startQemu('-name', 'folderless');
	const ended = await runQuiesce(['backup', '--qmp', qemu.qmpPath, '-r', join(folder.path, 'repository'), '--json'], {
		env: {QUIESCE_RUNTIME_DIR: join(file, 'run')},
	});
	expect(ended.code).toBe(1);
	expect(lastOf(ended)).toMatchObject({code: 'FAILED', hint: expect.stringContaining('QUIESCE_RUNTIME_DIR') as string});
});
