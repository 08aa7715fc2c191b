import {execFileSync, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {ContentHashes} from '../../src/images/content-hashes.ts';
import {compareContent, type ContentProgress, hashContent} from '../../src/images/hash-content.ts';
import {CLUSTER_BYTES, clustersOf, type HashRecord} from '../../src/images/hash-records.ts';
import {checkImage, createImage} from '../../src/images/qemu-img.ts';
import {shrinkImage} from '../../src/images/shrink-image.ts';
import {ALIGNMENT_BYTES, type DaemonImage, StorageDaemon} from '../../src/images/storage-daemon.ts';
import {NbdClient} from '../../src/nbd/client.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {failingFileSystem, FLUSH_FAILURE, TOO_MUCH} from '../sink/failing-flush.ts';

const DEPTH = 'qemu:allocation-depth';
const CLUSTERS = 41;
const ODD = (CLUSTERS - 1) * CLUSTER_BYTES + 3 * 512;
const EVEN = CLUSTERS * CLUSTER_BYTES;

async function start() {
	const folder = temporaryFolder();
	const socket = path.join(folder, 'nbd.sock');
	const daemon = await StorageDaemon.start(socket);
	onTestFinished(() => daemon.kill());
	return {daemon, socket, folder};
}

function imageOf(file: string, sizeBytes: number, compression: 'none' | 'zstd'): DaemonImage {
	return {name: 'disk', path: file, sizeBytes, compress: compression === 'zstd', recordsWrites: true};
}

async function newImage(file: string, sizeBytes: number, compression: 'none' | 'zstd'): Promise<DaemonImage> {
	await createImage(file, {sizeBytes: Math.ceil(sizeBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES, compression});
	return imageOf(file, sizeBytes, compression);
}

/** Writes through the export, as QEMU does. */
function write(socket: string, ...commands: string[]): void {
	const args = ['-f', 'raw', ...commands.flatMap(command => ['-c', command]), `nbd+unix:///disk?socket=${socket}`];
	const {stdout, stderr, status} = spawnSync('qemu-io', args, {encoding: 'utf8'});
	if (status !== 0 || /failed|error/i.test(stdout)) throw new Error(`${stdout}${stderr}`);
}

const cluster = (at: number, pattern: number, clusters = 1): string =>
	`write -P ${pattern} ${at * CLUSTER_BYTES} ${clusters * CLUSTER_BYTES}`;
const zeroes = (at: number, clusters = 1): string => `write -z ${at * CLUSTER_BYTES} ${clusters * CLUSTER_BYTES}`;
const tail = (sizeBytes: number, pattern: number): string =>
	`write -P ${pattern} ${(CLUSTERS - 1) * CLUSTER_BYTES} ${sizeBytes - (CLUSTERS - 1) * CLUSTER_BYTES}`;

async function connect(socket: string, exportName: string, ...contexts: string[]): Promise<NbdClient> {
	const client = await NbdClient.connect({unix: socket}, exportName, {metaContexts: ['base:allocation', ...contexts]});
	onTestFinished(() => client.close());
	return client;
}

async function all(records: AsyncIterable<HashRecord>): Promise<HashRecord[]> {
	const list: HashRecord[] = [];
	for await (const record of records) list.push(record);
	return list;
}

/** Hashes what was written, and settles the image. */
async function finish(
	{daemon, socket}: {daemon: StorageDaemon; socket: string},
	image: DaemonImage,
	mode: 'record' | 'omit',
): Promise<HashRecord[]> {
	const {exportName, context} = await daemon.shareWrites(image);
	const client = await connect(socket, exportName, context);
	expect(client.sizeBytes).toBe(image.sizeBytes);
	const records = await all(hashContent(client, {context, zeroes: mode}));
	await daemon.settle(image);
	return records;
}

/** The content of each cluster of what `qemu-img` makes of an image. */
function plainly(image: string, sizeBytes: number): (string | undefined)[] {
	const raw = path.join(temporaryFolder(), 'plain.raw');
	qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
	const content = fs.readFileSync(raw).subarray(0, sizeBytes);
	return Array.from({length: clustersOf(sizeBytes)}, (_, at) => {
		const bytes = content.subarray(at * CLUSTER_BYTES, (at + 1) * CLUSTER_BYTES);
		return bytes.every(byte => byte === 0) ? 'zero' : createHash('sha256').update(bytes).digest('hex');
	});
}

function composed(hashes: ContentHashes): string[] {
	return Array.from({length: hashes.clusters}, (_, at) => {
		const content = hashes.hashOf(at);
		return content === 'zero' ? content : content.toString('hex');
	});
}

/** The clusters that records name: `D` for data, `0` for zeroes. */
function drawing(records: readonly HashRecord[]): string {
	const clusters = Array.from({length: CLUSTERS}, () => '-');
	for (const {firstCluster, clusters: count, content} of records) {
		clusters.fill(content === 'zero' ? '0' : 'D', firstCluster, firstCluster + count);
	}
	return clusters.join('');
}

test.each([
	{sizeBytes: ODD, compression: 'none'},
	{sizeBytes: ODD, compression: 'zstd'},
	{sizeBytes: EVEN, compression: 'none'},
	{sizeBytes: EVEN, compression: 'zstd'},
	{sizeBytes: 512, compression: 'zstd'},
] as const)(
	'of an image of $sizeBytes bytes what was written is hashed ($compression)',
	async ({sizeBytes, compression}) => {
		const serving = await start();
		const image = await newImage(path.join(serving.folder, 'a.qcow2'), sizeBytes, compression);
		await serving.daemon.serve(image);
		if (sizeBytes === 512) write(serving.socket, 'write -P 7 0 512');
		else {
			write(
				serving.socket,
				...[cluster(0, 1), cluster(1, 2, 3), cluster(5, 3, 20), zeroes(30, 2), cluster(33, 0)],
				tail(sizeBytes, 9),
			);
		}
		const records = await finish(serving, image, 'omit');
		await serving.daemon.stop();
		if (sizeBytes % ALIGNMENT_BYTES !== 0) await shrinkImage(image.path, sizeBytes);
		const hashes = ContentHashes.empty(sizeBytes).apply(records);
		expect(composed(hashes)).toEqual(plainly(image.path, sizeBytes));
		if (sizeBytes > 512) expect(drawing(records)).toBe('DDDD-' + 'D'.repeat(20) + '-'.repeat(15) + 'D');
		// Three clusters that are equal are one record.
		if (sizeBytes > 512) expect(records.map(({clusters}) => clusters)).toEqual([1, 3, 20, 1]);
		expect(await checkImage(image.path, 'qcow2')).toEqual({problems: [], warnings: []});
		expect(qemuImg('info', image.path)).not.toContain('bitmap');
	},
);

test.each(['none', 'zstd'] as const)(
	'what is written on top of a copied image is hashed alone (%s)',
	async compression => {
		const serving = await start();
		const {daemon, socket, folder} = serving;
		const image = await newImage(path.join(folder, 'a.qcow2'), ODD, compression);
		await daemon.serve(image);
		write(socket, cluster(0, 1, 10), cluster(20, 2, 5), zeroes(30), tail(ODD, 9));
		const hashes = ContentHashes.empty(ODD).apply(await finish(serving, image, 'omit'));
		expect(composed(hashes)).toEqual(plainly(image.path, ODD));

		const copy = imageOf(path.join(folder, 'copy.qcow2'), ODD, compression);
		fs.copyFileSync(image.path, copy.path);
		await daemon.serve(copy);
		write(socket, cluster(12, 51), zeroes(4, 2), cluster(21, 0), zeroes(35));
		// The compress filter writes each cluster once, also one that was there before. What failed counts as written.
		if (compression === 'none') {
			write(socket, cluster(2, 50), cluster(12, 52), `write -P 53 ${8 * CLUSTER_BYTES + 512} 512`, tail(ODD, 10));
		} else {
			expect(() => {
				write(socket, cluster(2, 50));
			}).toThrow('Input/output error');
		}
		const written = await finish(serving, copy, 'record');
		const drawn = compression === 'none' ? '--D-00--D' : '--D-00---';
		const end = compression === 'none' ? 'D' : '-';
		expect(drawing(written)).toBe(`${drawn}---D--------0-------------0----${end}`);
		expect(composed(hashes.apply(written))).toEqual(plainly(copy.path, ODD));
	},
);

/** A full image and one that lies on it, as two backups make them; their records are what was hashed then. */
async function chain(compression: 'none' | 'zstd') {
	const serving = await start();
	const {daemon, socket, folder} = serving;
	const base = await newImage(path.join(folder, 'base.qcow2'), ODD, compression);
	const tip = imageOf(path.join(folder, 'tip.qcow2'), ODD, compression);
	await daemon.serve(base);
	write(socket, ...Array.from({length: 20}, (_, at) => cluster(at, at + 1)), tail(ODD, 9));
	const baseRecords = await finish(serving, base, 'omit');
	await shrinkImage(base.path, ODD);
	qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', 'base.qcow2', '-F', 'qcow2', tip.path, String(EVEN));
	await daemon.serve(tip);
	write(socket, cluster(3, 70), zeroes(5, 2), cluster(25, 71), tail(ODD, 72));
	const tipRecords = await finish(serving, tip, 'record');
	await shrinkImage(tip.path, ODD);
	return {...serving, base, tip, baseRecords, tipRecords};
}

test.each(['none', 'zstd'] as const)('a chain is what its hashes say, read as a whole (%s)', async compression => {
	const {daemon, socket, base, tip, baseRecords, tipRecords} = await chain(compression);
	const hashes = ContentHashes.empty(ODD).apply(baseRecords).apply(tipRecords);
	expect(composed(hashes)).toEqual(plainly(tip.path, ODD));

	await daemon.serveReadOnly({name: 'whole', path: tip.path, chain: 'follow'});
	const client = await connect(socket, 'whole', DEPTH);
	const progress: ContentProgress[] = [];
	const found = await compareContent(client, hashes, {onProgress: step => progress.push(step)});
	expect(found).toMatchObject({mismatches: [], mismatchedClusters: 0});
	expect(progress.at(-1)).toEqual({bytesRead: found.bytesRead, positionBytes: ODD});
	expect(found.bytesRead).toBe(19 * CLUSTER_BYTES + (ODD % CLUSTER_BYTES));
	// What is stored in the topmost image, by its own account, is what was written to it.
	expect(await all(hashContent(client, {context: DEPTH, zeroes: 'record'}))).toEqual(tipRecords);

	await daemon.serveReadOnly({name: 'alone', path: tip.path, chain: 'alone'});
	const alone = await connect(socket, 'alone', DEPTH);
	expect(await all(hashContent(alone, {context: DEPTH, zeroes: 'record'}))).toEqual(tipRecords);
	expect((await compareContent(alone, ContentHashes.empty(ODD).apply(tipRecords))).mismatches).toEqual([]);
	// Against the hashes of the whole chain it lacks what the base has.
	expect(await compareContent(alone, hashes)).toMatchObject({
		mismatchedClusters: 17,
		mismatches: [
			{firstCluster: 0, clusters: 3, why: 'differs'},
			{firstCluster: 4, clusters: 1, why: 'differs'},
			{firstCluster: 7, clusters: 13, why: 'differs'},
		],
	});

	await daemon.closeReadOnly({name: 'whole'});
	await daemon.closeReadOnly({name: 'alone'});
	await expect(client.read(0, 1)).rejects.toThrow('closed');
	// Nobody has it open any more.
	for (const {path: file} of [tip, base]) execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write 0 64k', file]);
});

test('a flipped byte is found, and so is a cluster that was zeroed or written where there should be nothing', async () => {
	const {daemon, socket, base, tip, baseRecords, tipRecords} = await chain('none');
	const map = JSON.parse(qemuImg('map', '--output=json', '-f', 'qcow2', base.path)) as {
		start: number;
		offset?: number;
	}[];
	const {offset = 0, start: mapped = 0} = map.find(({offset}) => offset !== undefined) ?? {};
	const file = fs.openSync(base.path, 'r+');
	const place = offset + 7 * CLUSTER_BYTES - mapped + 12_345;
	fs.writeSync(file, Buffer.from([0xff]), 0, 1, place);
	fs.closeSync(file);
	execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -z 704k 64k', '-c', 'write -P 1 1920k 64k', base.path]);

	await daemon.serveReadOnly({name: 'whole', path: tip.path, chain: 'follow'});
	const client = await connect(socket, 'whole');
	const expected = ContentHashes.empty(ODD).apply(baseRecords).apply(tipRecords);
	expect(await compareContent(client, expected)).toMatchObject({
		mismatchedClusters: 3,
		mismatches: [7, 11, 30].map(at => ({firstCluster: at, clusters: 1, why: 'differs'})),
	});
	expect(await compareContent(client, expected, {maxMismatches: 1})).toMatchObject({
		mismatchedClusters: 3,
		mismatches: [{firstCluster: 7, clusters: 1, why: 'differs'}],
	});
});

test('clusters that cannot be decompressed are told, each by itself', async () => {
	const {daemon, socket, folder} = await start();
	const raw = path.join(folder, 'plain.raw');
	const text = Array.from({length: 20 * CLUSTER_BYTES}, (_, at) => String.fromCharCode(97 + (((at * at) % 251) % 26)));
	fs.writeFileSync(raw, text.join(''));
	const image = path.join(folder, 'a.qcow2');
	qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd', raw, image);
	const readAndHash = async (name: string) => {
		await daemon.serveReadOnly({name, path: image, chain: 'alone'});
		return connect(socket, name, DEPTH);
	};
	const before = await readAndHash('before');
	const hashes = ContentHashes.empty(before.sizeBytes);
	for await (const record of hashContent(before, {context: DEPTH, zeroes: 'omit'})) hashes.set(record);
	await daemon.closeReadOnly({name: 'before'});

	// Clusters are compressed one after the other, each to much less than a sector.
	const bytes = fs.readFileSync(image);
	const magic = Buffer.from('28b52ffd', 'hex');
	const places: number[] = [];
	for (let at = bytes.indexOf(magic); at >= 0; at = bytes.indexOf(magic, at + 1)) places.push(at);
	expect(places).toHaveLength(20);
	for (const at of [5, 6, 13]) bytes.fill(0xff, places[at], places[at]! + 8);
	fs.writeFileSync(image, bytes);
	const after = await readAndHash('after');
	expect(await compareContent(after, hashes)).toEqual({
		mismatches: [
			{firstCluster: 5, clusters: 2, why: 'unreadable'},
			{firstCluster: 13, clusters: 1, why: 'unreadable'},
		],
		mismatchedClusters: 3,
		bytesRead: 17 * CLUSTER_BYTES,
	});
	await expect(all(hashContent(after, {context: DEPTH, zeroes: 'omit'}))).rejects.toMatchObject({errno: 5});
});

test('an image of another size is damaged', async () => {
	const {daemon, socket, folder} = await start();
	const image = await newImage(path.join(folder, 'a.qcow2'), EVEN, 'none');
	await daemon.serveReadOnly({name: 'disk', path: image.path, chain: 'alone'});
	const client = await connect(socket, 'disk');
	await expect(compareContent(client, ContentHashes.empty(ODD))).rejects.toMatchObject({code: 'DAMAGED'});
});

test('hashing ends with the reason when the client is aborted', async () => {
	const {daemon, socket, folder} = await start();
	// Much more than is read ahead: else all may have come by then.
	const clusters = 512;
	const image = await newImage(path.join(folder, 'a.qcow2'), clusters * CLUSTER_BYTES, 'none');
	await daemon.serve(image);
	write(socket, cluster(0, 1, clusters));
	const {exportName, context} = await daemon.shareWrites(image);
	const controller = new AbortController();
	const metaContexts = ['base:allocation', context];
	const client = await NbdClient.connect({unix: socket}, exportName, {metaContexts, signal: controller.signal});
	const reason = new Error('enough');
	const onProgress = (): void => {
		controller.abort(reason);
	};
	await expect(all(hashContent(client, {context, zeroes: 'omit', onProgress}))).rejects.toBe(reason);
	await client.close();
});

test('settling an image whose writes were shared throws when they do not reach the disk', async () => {
	const there = failingFileSystem();
	const {daemon, socket, folder} = await start();
	const source = path.join(folder, 'source.raw');
	fs.writeFileSync(source, Buffer.alloc(TOO_MUCH, 'x'));
	const image = await newImage(path.join(there, 'a.qcow2'), TOO_MUCH, 'none');
	await daemon.serve(image);
	spawnSync('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, `nbd+unix:///disk?socket=${socket}`]);
	await daemon.shareWrites(image);
	await expect(daemon.settle(image)).rejects.toThrow(FLUSH_FAILURE);
});

test('an image that records writes is settled also where nobody asked for them', async () => {
	const {daemon, socket, folder} = await start();
	const image = await newImage(path.join(folder, 'a.qcow2'), ODD, 'zstd');
	for (const name of ['a', 'b']) {
		await daemon.serve(image);
		write(socket, name === 'a' ? cluster(0, 1) : cluster(9, 1));
		await daemon.settle(image);
	}
	expect(qemuImg('info', image.path)).not.toContain('bitmap');
});
