import {execFile} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {promisify} from 'node:util';
import {filter, firstValueFrom} from 'rxjs';
import {expect, onTestFinished, test} from 'vitest';
import type {SocketAddress} from '../../src/config/address.ts';
import {NbdClient} from '../../src/nbd/client.ts';
import type {NbdExport} from '../../src/nbd/export.ts';
import {type NbdServerOptions, serveNbd} from '../../src/nbd/server.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {startQemu} from '../support/real-qemu.ts';
import {memoryExport, sampleContent} from './memory-export.ts';

const SIZE = 9 * 1024 * 1024 + 512;
const run = promisify(execFile);

/** Serves on a Unix socket in a folder of its own, or where it is told, until the test is over. */
async function serve(exports: Record<string, NbdExport>, options: NbdServerOptions = {}, address?: SocketAddress) {
	const folder = temporaryFolder();
	const socket = path.join(folder, 'nbd.sock');
	const reports: string[] = [];
	const server = await serveNbd(address ?? {unix: socket}, new Map(Object.entries(exports)), {
		report: error => reports.push(error.message),
		...options,
	});
	onTestFinished(() => server.close());
	const uri = (name: string): string => `nbd+unix:///${name}?socket=${socket}`;
	return {server, socket, folder, uri, reports};
}

test('QEMU pushes a disk to us, and what we have is the disk', async () => {
	const content = sampleContent(SIZE);
	const taken = Buffer.alloc(SIZE, 0xff);
	const shown = memoryExport(taken);
	const {socket, reports} = await serve({disk: shown});
	const source = path.join(temporaryFolder(), 'source.raw');
	fs.writeFileSync(source, content);
	const qemu = await startQemu('-blockdev', `driver=raw,node-name=disk,file.driver=file,file.filename=${source}`);
	const qmp = await QmpConnection.open({unix: qemu.qmpPath});
	onTestFinished(() => qmp.close());
	await qmp.execute('blockdev-add', {
		'driver': 'nbd',
		'node-name': 'target',
		'server': {type: 'unix', path: socket},
		'export': 'disk',
	});
	const concluded = firstValueFrom(qmp.on('JOB_STATUS_CHANGE').pipe(filter(({data}) => data.status === 'concluded')));
	const job = {
		'job-id': 'push',
		'device': 'disk',
		'target': 'target',
		'sync': 'full',
		'filter-node-name': 'filter',
		'auto-finalize': true,
		'auto-dismiss': false,
		'on-source-error': 'report',
		'on-target-error': 'report',
	} as const;
	await qmp.execute('transaction', {actions: [{type: 'blockdev-backup', data: job}]});
	await concluded;
	expect((await qmp.execute('query-jobs')).map(({error}) => error)).toEqual([undefined]);
	await qmp.execute('job-dismiss', {id: 'push'});
	await qmp.execute('blockdev-del', {'node-name': 'target'});
	expect(taken.equals(content)).toBe(true);
	expect(shown.flushes).toBeGreaterThan(0);
	expect(reports).toEqual([]);
});

test('nbdinfo lists what is served, with all that it can do', async () => {
	const {uri} = await serve({
		'disk': memoryExport(sampleContent(SIZE), {
			description: 'a disk',
			blockSizes: {minimum: 512, preferred: 65_536, maximum: 1024 * 1024},
		}),
		'größer': memoryExport(Buffer.alloc(512), {connections: 'coherent'}),
		'': {sizeBytes: 5, read: () => Promise.resolve()},
	});
	const {stdout} = await run('nbdinfo', ['--list', '--json', uri('')]);
	const {exports} = JSON.parse(stdout) as {exports: Record<string, unknown>[]};
	expect(exports).toMatchObject([
		{
			'export-name': 'disk',
			'description': 'a disk',
			'export-size': SIZE,
			'block_size_minimum': 512,
			'block_size_preferred': 65_536,
			'block_size_maximum': 1024 * 1024,
			'contexts': ['base:allocation'],
			'is_read_only': false,
			'can_cache': false,
			'can_fast_zero': true,
			'can_flush': true,
			'can_fua': true,
			'can_multi_conn': false,
			'can_trim': true,
			'can_zero': true,
		},
		{'export-name': 'größer', 'export-size': 512, 'can_multi_conn': true},
		{'export-name': '', 'export-size': 5, 'is_read_only': true, 'can_flush': false, 'can_multi_conn': true},
	]);
	const {stdout: listed} = await run('qemu-nbd', ['--list', '--socket', new URL(uri('')).searchParams.get('socket')!]);
	expect(listed).toContain("export: 'disk'");
	expect(listed).toContain('base:allocation');
});

test('nbdcopy and qemu-img read and write it, with several connections', async () => {
	const content = sampleContent(SIZE);
	const taken = Buffer.alloc(SIZE, 0xff);
	const {uri, folder, reports, server} = await serve({
		from: memoryExport(content),
		to: memoryExport(taken, {connections: 'coherent'}),
	});
	const file = path.join(folder, 'copy.raw');
	await run('nbdcopy', [uri('from'), file]);
	expect(fs.readFileSync(file).equals(content)).toBe(true);
	await run('nbdcopy', ['--connections=4', '--requests=64', '--flush', file, uri('to')]);
	expect(taken.equals(content)).toBe(true);
	taken.fill(0xee);
	await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', '-t', 'writethrough', uri('from'), uri('to')]);
	expect(taken.equals(content)).toBe(true);
	await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri('from'), file]);
	expect(reports).toEqual([]);
	expect(server.bytesHeld).toBeLessThanOrEqual(6 * 32 * 1024 * 1024);
});

test('our own client speaks to it with extended headers, and asks for the status of a whole disk at once', async () => {
	const huge = 2 ** 50;
	const asked: number[] = [];
	const {socket} = await serve({
		disk: {
			sizeBytes: huge,
			contexts: ['base:allocation', 'x-test:other'],
			read: (_offset, into) => {
				into.fill(7);
				return Promise.resolve();
			},
			blockStatus: (context, _offset, length) => {
				asked.push(length);
				return Promise.resolve(
					context === 'base:allocation'
						? [
								{length: 2 ** 40, flags: 3},
								{length: 2 ** 51, flags: 0},
							]
						: [{length, flags: 1}],
				);
			},
		},
	});
	const client = await NbdClient.connect({unix: socket}, 'disk', {metaContexts: ['base:allocation', 'x-test:other']});
	onTestFinished(() => client.close());
	expect(client.sizeBytes).toBe(huge);
	const status = await client.blockStatus(0, huge);
	expect(Object.fromEntries(status)).toEqual({
		'base:allocation': [
			{length: 2 ** 40, flags: 3},
			{length: huge - 2 ** 40, flags: 0},
		],
		'x-test:other': [{length: huge, flags: 1}],
	});
	expect(asked).toEqual([huge, huge]);
	expect((await client.read(huge - 100, 100)).equals(Buffer.alloc(100, 7))).toBe(true);
});

test('what the storage cannot do is told to the client as the system says it, and the rest goes on', async () => {
	const failing = (code: string) => Promise.reject(Object.assign(new Error('/secret/place'), {code}));
	const {uri} = await serve({
		disk: memoryExport(Buffer.alloc(SIZE), {
			write: offset => (offset === 0 ? failing('EDQUOT') : Promise.resolve()),
			read: (offset, into) => {
				if (offset === 0) return failing('EIO');
				into.fill(3);
				return Promise.resolve();
			},
		}),
	});
	const io = async (...commands: string[]) => {
		const args = ['-f', 'raw', ...commands.flatMap(command => ['-c', command]), uri('disk')];
		return await run('qemu-io', args).catch((error: unknown) => error as {stdout: string; stderr: string});
	};
	const {stdout, stderr} = await io('write 0 4096', 'read 0 4096', 'write 8192 4096', 'read -P 3 4096 4096');
	expect(stdout).toContain('write failed: No space left on device');
	expect(stdout).toContain('read failed: Input/output error');
	expect(stdout).toContain('wrote 4096/4096 bytes at offset 8192');
	expect(stdout).toContain('read 4096/4096 bytes at offset 4096');
	expect(stdout + stderr).not.toContain('secret');
});

test('the socket is for our own user, and goes with the server; requests under way are waited for', async () => {
	const begun = Promise.withResolvers<undefined>();
	const storage = Promise.withResolvers<undefined>();
	const controller = new AbortController();
	const {server, socket} = await serve(
		{
			disk: memoryExport(Buffer.alloc(SIZE), {
				read: () => {
					begun.resolve(undefined);
					return storage.promise;
				},
			}),
		},
		{signal: controller.signal},
	);
	expect(fs.statSync(socket).mode & 0o777).toBe(0o600);
	const client = await NbdClient.connect({unix: socket}, 'disk');
	const read = client.read(0, 512);
	read.catch(() => undefined);
	await begun.promise;
	controller.abort();
	await expect(read).rejects.toThrow(/closed/);
	expect(fs.existsSync(socket)).toBe(false);
	let state = 'closing';
	const closed = server.close().then(() => (state = 'closed'));
	await client.close();
	expect(state).toBe('closing');
	storage.resolve(undefined);
	await closed;
});

test('it listens on TCP too', async () => {
	const content = sampleContent(SIZE);
	const {server} = await serve({disk: memoryExport(content)}, {}, {host: '127.0.0.1', port: 0});
	const {address} = server;
	const client = await NbdClient.connect(address, 'disk');
	expect((await client.read(0, 100_000)).equals(content.subarray(0, 100_000))).toBe(true);
	await client.close();
	await expect(serveNbd(address, new Map())).rejects.toThrow(/EADDRINUSE/);
});
