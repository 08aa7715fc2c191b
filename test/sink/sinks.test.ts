import {createHash, randomBytes} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {objectName} from '../../src/block/names.ts';
import {preparePush} from '../../src/cut/push.ts';
import {processServing} from '../../src/host/processes.ts';
import {checkImage, imageInfo} from '../../src/images/qemu-img.ts';
import {runJobs} from '../../src/jobs/run-jobs.ts';
import type {QmpConnection} from '../../src/qmp/connection.ts';
import {composeHashes, writeHashes} from '../../src/repository/content-hashes.ts';
import {openDaemonSink} from '../../src/sink/daemon.ts';
import {openInlineSink} from '../../src/sink/inline.ts';
import {socketIn} from '../../src/sink/nbd-socket.ts';
import type {Sink, SinkContext, SinkDisk} from '../../src/sink/sink.ts';
import {inside, openQmp, ownRuntimeFolder, processesNaming} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder, writeSource} from '../repository/fixture.ts';
import {startQemu} from '../support/real-qemu.ts';
import {failingFileSystem, FLUSH_FAILURE, TOO_MUCH} from './failing-flush.ts';

const RUN = 'abc123';
const SINKS = {daemon: openDaemonSink, inline: openInlineSink};
/** Whole sectors of 512 bytes, and not whole clusters of 64 KiB, and both. */
const SIZES = [512, 540_672, 1_049_088, 2_097_152];

interface Source extends SinkDisk {
	readonly node: string;
	readonly file: string;
}

beforeEach(() => {
	ownRuntimeFolder();
});

/** A QEMU with disks of these sizes, and where their copies are to go. */
async function prepare(sizes: readonly number[], to = temporaryFolder(), content = writeSource) {
	const {qmpPath} = await startQemu();
	const qmp = await openQmp(qmpPath);
	const sources: Source[] = [];
	const from = temporaryFolder();
	for (const [index, sizeBytes] of sizes.entries()) {
		const name = `vd${'abcdef'[index] ?? ''}`;
		const file = path.join(from, `${name}.raw`);
		content(file, sizeBytes);
		const node = {'driver': 'raw', 'node-name': name, 'file': {driver: 'file', filename: file}};
		await qmp.execute('blockdev-add', node);
		const keepHashes: SinkDisk['keepHashes'] = records => writeHashes(path.join(to, `${name}.hashes`), records);
		sources.push({name, node: name, file, sizeBytes, path: path.join(to, `${name}.qcow2`), keepHashes});
	}
	const folder = temporaryFolder();
	const context: SinkContext = {qmp, run: RUN, folder, disks: sources, compression: 'none', writer: 'qemu'};
	return {qmp, sources, folder, context};
}

async function copyAll(qmp: QmpConnection, sources: readonly Source[], sink: Sink): Promise<void> {
	const disks = sources.map(({name, node}) => ({name, node, target: sink.nodeOf(name)}));
	const cut = preparePush({qmp, run: RUN, compress: sink.jobCompresses}, disks);
	const start = async (): Promise<void> => {
		await cut.take();
		await cut.copy();
	};
	await lastValueFrom(runJobs(qmp, cut.jobs, start));
}

test.each([
	{name: 'daemon', compression: 'none'},
	{name: 'daemon', compression: 'zstd'},
	{name: 'inline', compression: 'none'},
	{name: 'inline', compression: 'zstd'},
] as const)('copies of all sizes are equal to the disks ($name, $compression)', async ({name, compression}) => {
	const {qmp, sources, context} = await prepare(SIZES);
	const sink = await SINKS[name]({...context, compression});
	await copyAll(qmp, sources, sink);
	await sink.settle();
	for (const {file, path: image, sizeBytes} of sources) {
		expect(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', file, image)).toContain('identical');
		expect(await checkImage(image, 'qcow2')).toEqual({problems: [], warnings: []});
		const hashes = await composeHashes([image.replace('.qcow2', '.hashes')], sizeBytes);
		const content = fs.readFileSync(file);
		for (let at = 0; at < sizeBytes; at += 65_536) {
			const cluster = content.subarray(at, at + 65_536);
			const expected = cluster.some(byte => byte !== 0) ? createHash('sha256').update(cluster).digest() : 'zero';
			expect(hashes.hashOf(at / 65_536)).toEqual(expected);
		}
		expect(await imageInfo(image, 'qcow2')).toMatchObject({
			virtualSizeBytes: sizeBytes,
			compressionType: compression === 'zstd' ? 'zstd' : 'zlib',
		});
		expect(fs.statSync(image).mode & 0o777).toBe(0o600);
	}
	expect(await inside(qmp)).toEqual({jobs: [], nodes: ['vda', 'vdb', 'vdc', 'vdd']});
	expect(processesNaming(context.folder)).toEqual([]);
});

test.each(['daemon', 'inline'] as const)('what compresses well is stored compressed (%s)', async name => {
	const bytes = 4 * 1024 * 1024;
	const text = (file: string) => {
		fs.writeFileSync(file, 'Quiesce. '.repeat(bytes / 9 + 1).slice(0, bytes));
	};
	const {qmp, sources, context} = await prepare([bytes], temporaryFolder(), text);
	const sink = await SINKS[name]({...context, compression: 'zstd'});
	await copyAll(qmp, sources, sink);
	await sink.settle();
	expect(fs.statSync(sources[0]!.path).blocks * 512).toBeLessThan(bytes / 4);
});

test.each(['daemon', 'inline'] as const)('zeroes take no space, whatever was allocated (%s)', async name => {
	const bytes = 8 * 1024 * 1024;
	const zeroes = (file: string) => {
		fs.writeFileSync(file, Buffer.alloc(bytes));
	};
	const {qmp, sources, context} = await prepare([bytes], temporaryFolder(), zeroes);
	const sink = await SINKS[name](context);
	await copyAll(qmp, sources, sink);
	await sink.settle();
	expect(fs.statSync(sources[0]!.path).blocks * 512).toBeLessThan(1024 * 1024);
});

test.each(['daemon', 'inline'] as const)('a copy that does not reach the disk is not settled (%s)', async name => {
	const random = (file: string, sizeBytes: number) => {
		fs.writeFileSync(file, randomBytes(sizeBytes));
	};
	const {qmp, sources, context} = await prepare([TOO_MUCH], failingFileSystem(), random);
	const sink = await SINKS[name](context);
	await copyAll(qmp, sources, sink);
	await expect(sink.settle()).rejects.toThrow(FLUSH_FAILURE);
	await sink.abandon();
	expect(processesNaming(context.folder)).toEqual([]);
});

test('only this user can reach the socket that the copies go through, and read the images', async () => {
	const {context} = await prepare([65_536]);
	fs.chmodSync(context.folder, 0o700);
	const sink = await openDaemonSink(context);
	expect(fs.statSync(socketIn(context.folder)).mode & 0o777).toBe(0o600);
	expect(fs.statSync(context.folder).mode & 0o777).toBe(0o700);
	await sink.abandon();
});

test('a QEMU of another user is let in to that one socket', async () => {
	const {context} = await prepare([65_536]);
	fs.chmodSync(context.folder, 0o700);
	const sink = await openDaemonSink({...context, qemuUid: 65_534});
	expect(fs.statSync(socketIn(context.folder))).toMatchObject({uid: 65_534});
	expect(fs.statSync(socketIn(context.folder)).mode & 0o777).toBe(0o600);
	expect(fs.statSync(context.folder).mode & 0o777).toBe(0o711);
	await sink.abandon();
});

test('an abandoned sink leaves no process and no socket', async () => {
	const {context} = await prepare([65_536]);
	const sink = await openDaemonSink(context);
	expect(processesNaming(context.folder)).toHaveLength(1);
	await sink.abandon();
	expect(processesNaming(context.folder)).toEqual([]);
	expect(fs.readdirSync(context.folder)).toEqual([]);
	await sink.abandon();
});

test('a sink that cannot be opened leaves no process and no socket', async () => {
	const {qmp, context} = await prepare([65_536]);
	const taken = {'driver': 'null-co', 'node-name': objectName(RUN, 'vda', 'target')};
	await qmp.execute('blockdev-add', taken);
	await expect(openDaemonSink(context)).rejects.toThrow(
		'QEMU cannot write to the storage daemon: QEMU refused blockdev-add',
	);
	expect(processesNaming(context.folder)).toEqual([]);
	expect(fs.readdirSync(context.folder)).toEqual([]);
});

test('a sink whose daemon dies is broken', async () => {
	const {context} = await prepare([65_536]);
	const sink = await openDaemonSink(context);
	const daemon = await processServing(socketIn(context.folder));
	process.kill(daemon!.pid, 'SIGKILL');
	await expect(sink.broken).rejects.toThrow('qemu-storage-daemon ended by itself (signal SIGKILL)');
	await expect(sink.settle()).rejects.toThrow();
	await sink.abandon();
	expect(fs.readdirSync(context.folder)).toEqual([]);
});

test('a daemon that hangs once all is copied fails the settling in bounded time, and QEMU does not wait for it', async () => {
	const {qmp, sources, context} = await prepare([1024 * 1024]);
	const sink = await openDaemonSink(context);
	await copyAll(qmp, sources, sink);
	const daemon = await processServing(socketIn(context.folder));
	process.kill(daemon!.pid, 'SIGSTOP');
	const settling = sink.settle();
	settling.catch(() => undefined);
	await qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'other'});
	expect((await inside(qmp)).nodes).toEqual(['other', 'vda']);
	await expect(settling).rejects.toThrow(/^QEMU did not answer block-[a-z-]+ within 10 s$/);
	await sink.abandon();
	expect(processesNaming(context.folder)).toEqual([]);
});

test('an image that exists is not overwritten', async () => {
	const {context, sources} = await prepare([65_536]);
	fs.writeFileSync(sources[0]!.path, 'older');
	for (const open of Object.values(SINKS)) await expect(open(context)).rejects.toThrow('it exists');
	expect(fs.readFileSync(sources[0]!.path, 'utf8')).toBe('older');
	expect(processesNaming(context.folder)).toEqual([]);
});
