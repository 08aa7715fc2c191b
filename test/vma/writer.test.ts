import fs from 'node:fs/promises';
import {PassThrough} from 'node:stream';
import {expect, onTestFinished, test} from 'vitest';
import {VmaDecoder} from '../../src/vma/decoder.ts';
import {CLUSTER_BYTES} from '../../src/vma/geometry.ts';
import {type VmaOutput, toFile, toStream} from '../../src/vma/output.ts';
import {VmaWriter} from '../../src/vma/writer.ts';
import {areSame, headerOf, memory, readBack, someContent} from './archives.ts';
import {temporaryFolder} from './temporary-folder.ts';

const MIB = 1024 * 1024;

function writerOf(size: number, output: VmaOutput = memory().output): VmaWriter {
	return new VmaWriter({header: headerOf(size), output});
}

test('requests of many clusters, and of zeroes, are taken at once and in any order', async () => {
	const size = 8 * MIB + 4608;
	const content = someContent(size, 3);
	content.fill(0, 2 * MIB, 5 * MIB);
	const archive = memory();
	const writer = writerOf(size, archive.output);
	const requests = Array.from({length: 9}, (_, index) => (9 - 1 - index) * MIB).map(offset =>
		offset >= 2 * MIB && offset < 5 * MIB
			? writer.writeZeroes(1, offset, MIB)
			: writer.write(1, offset, content.subarray(offset, offset + MIB)),
	);
	await Promise.all(requests);
	expect(await writer.finish()).toEqual({bytes: archive.bytes().length});
	expect(areSame((await readBack(archive.bytes())).contents, new Map([['drive-scsi0', content]]))).toBe(true);
});

test('each device has extents of its own, for readers that mix them up', async () => {
	const archive = memory();
	const writer = new VmaWriter({header: headerOf(70 * CLUSTER_BYTES, 70 * CLUSTER_BYTES), output: archive.output});
	for (let cluster = 0; cluster < 70; cluster++) {
		await writer.writeZeroes(1, cluster * CLUSTER_BYTES, CLUSTER_BYTES);
		await writer.writeZeroes(2, cluster * CLUSTER_BYTES, CLUSTER_BYTES);
	}
	await writer.finish();
	const decoder = new VmaDecoder();
	const extents = [...decoder.push(archive.bytes())].filter(event => event.kind === 'extent');
	expect(extents.map(({extent}) => extent.entries.length)).toEqual([59, 59, 11, 11]);
	for (const {extent} of extents) expect(new Set(extent.entries.map(({deviceId}) => deviceId)).size).toBe(1);
});

test('data is handed on as it was brought, in one piece where it was in one', async () => {
	const pieces: (readonly Buffer[])[] = [];
	const data = Buffer.alloc(MIB, 1);
	const writer = writerOf(MIB, all => {
		pieces.push(all);
		return Promise.resolve();
	});
	await writer.write(1, 0, data);
	await writer.finish();
	const found = pieces.flat().find(({length}) => length === MIB)!;
	expect([found.buffer, found.byteOffset]).toEqual([data.buffer, data.byteOffset]);
});

test('whoever brings data waits while the output is slow, and no more than that is held', async () => {
	const size = 256 * MIB;
	let release = Promise.withResolvers<undefined>();
	const writer = writerOf(size, () => release.promise);
	const data = Buffer.alloc(MIB, 1);
	let taken = 0;
	const bring = async (): Promise<void> => {
		for (; taken < 256; taken++) await writer.write(1, taken * MIB, data);
	};
	const bringing = bring();
	// Everything that can go on without the output has gone on by then.
	await new Promise(setImmediate);
	expect(taken).toBeLessThan(16);
	release.resolve(undefined);
	release = Promise.withResolvers<undefined>();
	release.resolve(undefined);
	await bringing;
	await writer.finish();
});

test('an archive of which something never came is none, and what is missing is told', async () => {
	const writer = writerOf(10 * CLUSTER_BYTES);
	await writer.write(1, 0, Buffer.alloc(3 * CLUSTER_BYTES, 1));
	await writer.writeZeroes(1, 4 * CLUSTER_BYTES, 2 * CLUSTER_BYTES);
	await expect(writer.finish()).rejects.toMatchObject({
		code: 'FAILED',
		message:
			'the archive is incomplete: 5 of the 10 clusters of drive-scsi0 never came, the first of them at byte 196608',
	});
	await expect(writer.finish()).rejects.toThrow('incomplete');
});

test.each([
	['twice', 1, 0, CLUSTER_BYTES, 'came twice'],
	['in part', 1, CLUSTER_BYTES, 4096, 'not whole clusters'],
	['askew', 1, CLUSTER_BYTES + 512, CLUSTER_BYTES, 'not whole clusters'],
	['beyond the end', 1, 2 * CLUSTER_BYTES, 2 * CLUSTER_BYTES, 'which has 163840'],
	['before the beginning', 1, -CLUSTER_BYTES, CLUSTER_BYTES, 'not all in drive-scsi0'],
	['of no device', 2, 0, CLUSTER_BYTES, 'no device with the number 2'],
])('data that comes %s ends the archive', async (_, device, offset, length, message) => {
	for (const bring of [
		(writer: VmaWriter) => writer.write(device, offset, Buffer.alloc(length, 1)),
		(writer: VmaWriter) => writer.writeZeroes(device, offset, length),
	]) {
		const writer = writerOf(2.5 * CLUSTER_BYTES);
		await writer.write(1, 0, Buffer.alloc(CLUSTER_BYTES));
		await expect(bring(writer)).rejects.toThrow(message);
		await expect(writer.writeZeroes(1, CLUSTER_BYTES, 1.5 * CLUSTER_BYTES)).rejects.toThrow(message);
		await expect(writer.finish()).rejects.toThrow(message);
	}
});

test('a finished archive takes no more', async () => {
	const writer = writerOf(512);
	await writer.writeZeroes(1, 0, 512);
	await writer.finish();
	await expect(writer.writeZeroes(1, 0, 512)).rejects.toThrow('finished');
	await expect(writer.finish()).rejects.toThrow('finished');
});

test('an output that fails ends everything with its own error', async () => {
	let calls = 0;
	const full = Object.assign(new Error('no space left on device'), {code: 'ENOSPC'});
	const writer = writerOf(64 * MIB, () => (calls++ < 2 ? Promise.resolve() : Promise.reject(full)));
	const data = Buffer.alloc(MIB, 1);
	const bringing = async (): Promise<void> => {
		for (let at = 0; at < 64; at++) await writer.write(1, at * MIB, data);
	};
	await expect(bringing()).rejects.toBe(full);
	await expect(writer.finish()).rejects.toBe(full);
});

test('the index fails the archive too', async () => {
	const failing = new Error('no');
	const writer = new VmaWriter({
		header: headerOf(512),
		output: memory().output,
		index: () => Promise.reject(failing),
	});
	await expect(writer.write(1, 0, Buffer.alloc(512)).then(() => writer.finish())).rejects.toBe(failing);
});

test('what is written to a file, and to a stream that is slow, is all there', async () => {
	const size = 5 * MIB + 512;
	const content = someContent(size, 5);
	const folder = await temporaryFolder();
	const file = await fs.open(`${folder}/a.vma`, 'wx');
	onTestFinished(() => file.close());
	const stream = new PassThrough({highWaterMark: 1});
	const [streamed] = await Promise.all([
		stream.toArray() as Promise<Buffer[]>,
		...[toFile(file), toStream(stream)].map(async output => {
			const writer = writerOf(size, output);
			await writer.write(1, 0, content);
			await writer.finish();
			if (!stream.writableEnded) stream.end();
		}),
	]);
	const written = await fs.readFile(`${folder}/a.vma`);
	expect(areSame((await readBack(written)).contents, new Map([['drive-scsi0', content]]))).toBe(true);
	expect(Buffer.concat(streamed).equals(written)).toBe(true);
});

test('a reader that goes away fails the archive, and nothing waits for ever', async () => {
	const stream = new PassThrough({highWaterMark: 1});
	const writer = writerOf(64 * MIB, toStream(stream));
	const data = Buffer.alloc(MIB, 1);
	const requests = Array.from({length: 64}, (_, index) => writer.write(1, index * MIB, data));
	stream.destroy();
	const results = await Promise.allSettled(requests);
	expect(results.some(({status}) => status === 'rejected')).toBe(true);
	await expect(writer.finish()).rejects.toThrow('the stream is closed');
});
