import {execFile} from 'node:child_process';
import {once} from 'node:events';
import {chmod, mkdtemp, rm, writeFile} from 'node:fs/promises';
import net from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {pipeline} from 'node:stream';
import {promisify} from 'node:util';
import {firstValueFrom, lastValueFrom} from 'rxjs';
import {expect, onTestFinished, test, vi} from 'vitest';
import type {SocketAddress} from '../../src/config/address.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {QmpCommandError, QmpDisconnectedError, UnreachableError} from '../../src/qmp/errors.ts';
import {startQemu} from '../support/real-qemu.ts';
import {withoutPrivilege} from '../support/without-privilege.ts';

async function open(unix: string): Promise<QmpConnection> {
	const qmp = await QmpConnection.open({unix});
	onTestFinished(() => qmp.close());
	return qmp;
}

async function failureOf(address: SocketAddress): Promise<UnreachableError> {
	const error: unknown = await QmpConnection.open(address).catch((error: unknown) => error);
	expect(error).toBeInstanceOf(UnreachableError);
	return error as UnreachableError;
}

async function temporaryFolder(): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-qmp-'));
	onTestFinished(() => rm(folder, {recursive: true}));
	return folder;
}

/** Listens at `path` and never answers, as a guest agent that is not running. */
async function silentSocket(path: string): Promise<net.Server> {
	const server = net.createServer(socket => {
		onTestFinished(() => {
			socket.destroy();
		});
	});
	onTestFinished(() => {
		server.close();
	});
	server.listen(path);
	await once(server, 'listening');
	return server;
}

test('a session is opened, used, left and opened again', async () => {
	const {qmpPath} = await startQemu('-name', 'web');
	for (let round = 0; round < 20; round++) {
		const qmp = await QmpConnection.open({unix: qmpPath});
		expect(await qmp.execute('query-name')).toEqual({name: 'web'});
		expect(await qmp.execute('query-version')).toEqual(qmp.version);
		await qmp.close();
	}
});

test('commands far beyond the queue of QEMU are all answered', async () => {
	const {qmpPath} = await startQemu();
	const qmp = await open(qmpPath);
	const replies = await Promise.all(Array.from({length: 200}, () => qmp.execute('query-status')));
	expect(replies.map(({running}) => running)).toEqual(Array(200).fill(true));
});

test('the schema of more than 200 KB is read', async () => {
	const {qmpPath} = await startQemu();
	const schema = await (await open(qmpPath)).execute('query-qmp-schema');
	expect(JSON.stringify(schema).length).toBeGreaterThan(150_000);
	expect(schema).toContainEqual(expect.objectContaining({'name': 'transaction', 'meta-type': 'command'}));
});

test('a monitor that prints its messages over many lines is understood', async () => {
	const {dir} = await startQemu(
		...['-chardev', 'socket,id=pretty,path=pretty.sock,server=on,wait=off'],
		...['-mon', 'chardev=pretty,mode=control,pretty=on'],
	);
	const lines: string[] = [];
	const qmp = await QmpConnection.open(
		{unix: join(dir, 'pretty.sock')},
		{
			record: (direction, message) => {
				if (direction === '<-') lines.push(message);
			},
		},
	);
	onTestFinished(() => qmp.close());
	expect(await qmp.execute('query-status')).toMatchObject({running: true});
	expect(await qmp.execute('query-qmp-schema')).not.toHaveLength(0);
	expect(lines.every(line => line.includes('\n'))).toBe(true);
});

test('a refusal of QEMU has its class', async () => {
	const {qmpPath} = await startQemu();
	const qmp = await open(qmpPath);
	const error: unknown = await qmp.execute('blockdev-del', {'node-name': 'none'}).catch((error: unknown) => error);
	expect(error).toBeInstanceOf(QmpCommandError);
	expect(error).toMatchObject({command: 'blockdev-del', errorClass: 'GenericError'});
});

test('yank is taken out of band', async () => {
	const {qmpPath} = await startQemu();
	const qmp = await open(qmpPath);
	const yanked = qmp.executeOutOfBand('yank', {instances: [{'type': 'block-node', 'node-name': 'none'}]});
	await expect(yanked).rejects.toMatchObject({name: 'QmpCommandError', errorClass: 'DeviceNotFound'});
});

test('events reach every session', async () => {
	const {qmpPath, secondQmpPath} = await startQemu();
	const [first, second] = [await open(qmpPath), await open(secondQmpPath)];
	const events = [first, second].map(qmp => firstValueFrom(qmp.on('SHUTDOWN')));
	await first.execute('quit');
	expect((await Promise.all(events)).map(({data}) => data)).toEqual(
		Array(2).fill({guest: false, reason: 'host-qmp-quit'}),
	);
});

test('a QEMU that is killed ends what is pending and the events', async () => {
	const {qmpPath, pid, kill} = await startQemu();
	const qmp = await open(qmpPath);
	process.kill(pid, 'SIGSTOP');
	const pending = Array.from({length: 3}, () => qmp.execute('query-status').catch((error: unknown) => error));
	const events = lastValueFrom(qmp.events$).catch((error: unknown) => error);
	await kill();
	const disconnected = expect.any(QmpDisconnectedError) as unknown;
	expect(await Promise.all(pending)).toEqual(Array(3).fill(disconnected));
	expect(await events).toEqual(disconnected);
	const gone = await failureOf({unix: qmpPath});
	expect(gone.message).toBe(`nothing listens on monitor unix:${qmpPath}`);
});

test('a monitor that serves another client is said to be busy within five seconds, and the other can go on', async () => {
	const {qmpPath} = await startQemu();
	const holder = await open(qmpPath);
	const started = performance.now();
	const error = await failureOf({unix: qmpPath});
	expect(performance.now() - started).toBeLessThan(5_000);
	expect(error.message).toMatch(/^monitor busy: /);
	expect(error.hint).toMatch(/another -qmp option/);
	expect(await holder.execute('query-status')).toMatchObject({running: true});
	await holder.close();
	await open(qmpPath);
});

test('a monitor whose queue of clients is full is said to be busy at once', async () => {
	const {qmpPath} = await startQemu();
	await open(qmpPath);
	for (let full = false; !full;) {
		const socket = net.connect(qmpPath);
		socket.on('error', () => undefined);
		onTestFinished(() => {
			socket.destroy();
		});
		full = await once(socket, 'connect').then(
			() => false,
			() => true,
		);
	}
	expect((await failureOf({unix: qmpPath})).message).toBe(
		`monitor unix:${qmpPath} is busy: other clients are already waiting for it`,
	);
});

test('a socket that never says anything is said to be busy or not QMP within five seconds', async () => {
	const path = join(await temporaryFolder(), 'agent.sock');
	await silentSocket(path);
	const started = performance.now();
	expect((await failureOf({unix: path})).hint).toMatch(/or it is not a QMP socket/);
	expect(performance.now() - started).toBeLessThan(5_000);
});

test('a monitor for people is told from one for programs', async () => {
	const {dir} = await startQemu(
		...['-chardev', 'socket,id=hmp,path=hmp.sock,server=on,wait=off'],
		...['-mon', 'chardev=hmp,mode=readline'],
	);
	await expect(open(join(dir, 'hmp.sock'))).rejects.toThrow(/hmp.sock is not a QMP monitor: /);
});

test('a socket that does not exist is named', async () => {
	const path = join(await temporaryFolder(), 'gone.sock');
	const error = await failureOf({unix: path});
	expect(error.message).toBe(`monitor unix:${path} does not exist`);
	expect(error.hint).toMatch(/quiesce discover/);
});

test('a file that is no socket is named', async () => {
	const path = join(await temporaryFolder(), 'disk.qcow2');
	await writeFile(path, '');
	expect((await failureOf({unix: path})).message).toBe(`monitor unix:${path} is not a socket`);
});

test('a socket that nobody listens on is named', async () => {
	const {qmpPath, kill} = await startQemu();
	await kill();
	const error = await failureOf({unix: qmpPath});
	expect(error.message).toBe(`nothing listens on monitor unix:${qmpPath}`);
	expect(error.hint).toMatch(/has ended/);
});

test('a TCP port that nobody listens on is named', async () => {
	const error = await failureOf({host: '127.0.0.1', port: 1});
	expect(error.message).toBe('nothing listens on monitor tcp:127.0.0.1:1');
});

test('a monitor may be on TCP', async () => {
	const {qmpPath} = await startQemu();
	const server = net.createServer(socket => {
		pipeline(socket, net.connect(qmpPath), socket, () => undefined);
	});
	onTestFinished(() => {
		server.close();
	});
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	const {port} = server.address() as net.AddressInfo;
	const qmp = await QmpConnection.open({host: '127.0.0.1', port});
	onTestFinished(() => qmp.close());
	expect(await qmp.execute('query-status')).toMatchObject({running: true});
});

test.each(['until we are cancelled', 'for five seconds'])(
	'a TCP port that accepts nobody is waited for %s',
	async how => {
		const {qmpPath, pid} = await startQemu(
			...['-chardev', 'socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off'],
			...['-mon', 'chardev=tcp,mode=control'],
		);
		const chardevs = await (await open(qmpPath)).execute('query-chardev');
		const [, port] = /tcp:127.0.0.1:(\d+)/.exec(chardevs.find(({label}) => label === 'tcp')!.filename)!;
		process.kill(pid, 'SIGSTOP');
		// The kernel completes two connections for a listener with a backlog of one, and leaves the next one waiting.
		for (let count = 0; count < 2; count++) {
			const socket = net.connect(Number(port), '127.0.0.1').on('error', () => undefined);
			onTestFinished(() => {
				socket.destroy();
			});
			await once(socket, 'connect');
		}
		vi.useFakeTimers({toFake: ['setTimeout', 'clearTimeout']});
		onTestFinished(() => {
			vi.useRealTimers();
		});
		const controller = new AbortController();
		const opening = QmpConnection.open({host: '127.0.0.1', port: Number(port)}, {signal: controller.signal});
		if (how === 'for five seconds') vi.advanceTimersByTime(5_000);
		else controller.abort(new Error('enough'));
		await expect(opening).rejects.toThrow(
			how === 'for five seconds' ? `monitor tcp:127.0.0.1:${port} did not accept a connection within 5 s` : 'enough',
		);
	},
);

test('a socket that we may not open is named', async () => {
	const folder = await temporaryFolder();
	const path = join(folder, 'qmp.sock');
	await silentSocket(path);
	await chmod(folder, 0o755);
	await chmod(path, 0o000);
	const command = [...withoutPrivilege, process.execPath, join(import.meta.dirname, 'open-monitor.ts'), path];
	const {stdout} = await promisify(execFile)(command[0] ?? '', command.slice(1));
	expect(stdout).toBe(`UnreachableError: permission denied on monitor unix:${path}\n`);
});
