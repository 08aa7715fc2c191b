import {execFileSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {createReadStream} from 'node:fs';
import fs from 'node:fs/promises';
import {expect, test, vi} from 'vitest';
import {toFile} from '../../src/vma/output.ts';
import {readVma} from '../../src/vma/reader.ts';
import {VmaWriter} from '../../src/vma/writer.ts';
import {compressTo, uncompressed} from '../../src/vma/zstd.ts';
import {areSame, contentsOf, headerOf, inPieces, someContent, written} from './archives.ts';
import {temporaryFolder} from './temporary-folder.ts';

const MIB = 1024 * 1024;

/** Not the bytes: they would be printed. */
async function lengthOf(source: AsyncIterable<Buffer>): Promise<number> {
	return (await collected(source)).length;
}

async function collected(source: AsyncIterable<Buffer>): Promise<Buffer> {
	const chunks: Buffer[] = [];
	for await (const chunk of source) chunks.push(chunk);
	return Buffer.concat(chunks);
}

test('a compressed archive is written, and read back, by us and by zstd', async () => {
	const size = 15 * MIB + 512;
	const content = someContent(size, 8);
	const file = `${await temporaryFolder()}/a.vma.zst`;
	await using handle = await fs.open(file, 'wx');
	const compressor = compressTo(toFile(handle));
	const writer = new VmaWriter({header: headerOf(size), output: compressor.output});
	await writer.write(1, 0, content);
	const {bytes} = await writer.finish();
	await compressor.finish();
	expect(execFileSync('zstd', ['-q', '-d', '-c', file], {maxBuffer: 64 * MIB}).length).toBe(bytes);
	const {contents} = await contentsOf(readVma(uncompressed(createReadStream(file))));
	expect(areSame(contents, new Map([['drive-scsi0', content]]))).toBe(true);
});

test.each([0, 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 13 * MIB + 5])(
	'%i bytes in pieces come back in their order',
	async size => {
		const bytes = randomBytes(size);
		const frames: Buffer[] = [];
		const compressor = compressTo(async pieces => {
			// Later frames are ready before the earlier ones are written.
			await new Promise(setImmediate);
			frames.push(...pieces);
		});
		for await (const piece of inPieces(bytes, 700_001))
			await compressor.output([piece.subarray(0, 5), piece.subarray(5)]);
		await compressor.finish();
		expect((await collected(uncompressed(inPieces(Buffer.concat(frames), 100_000)))).equals(bytes)).toBe(true);
	},
);

test('what is not compressed, or too short to tell, comes through as it is', async () => {
	for (const bytes of [Buffer.alloc(0), Buffer.from('V'), Buffer.from('VMA\0 and more'), randomBytes(100_000)]) {
		expect((await collected(uncompressed(inPieces(bytes, 3)))).equals(bytes)).toBe(true);
	}
});

test('several frames are read as one', async () => {
	const frame = execFileSync('zstd', ['-q', '-c'], {input: 'half'});
	expect((await collected(uncompressed(inPieces(Buffer.concat([frame, frame]), 1)))).toString()).toBe('halfhalf');
});

test('a frame that is cut or changed is damaged', async () => {
	const frame = execFileSync('zstd', ['-q', '-c'], {input: randomBytes(500_000), maxBuffer: MIB});
	const flipped = Buffer.from(frame);
	flipped[frame.length >> 1]! ^= 1;
	for (const bytes of [frame.subarray(0, 4), frame.subarray(0, frame.length / 2), frame.subarray(0, -1), flipped]) {
		await expect(lengthOf(uncompressed(inPieces(bytes)))).rejects.toMatchObject({
			code: 'DAMAGED',
			message: expect.stringMatching(/^the zstd frame is damaged, near compressed byte \d+: /) as string,
		});
	}
});

test('an archive in two frames is incomplete without the end of the second', async () => {
	const {archive} = await written(headerOf(MIB), new Map([['drive-scsi0', Buffer.alloc(MIB, 1)]]));
	const frames = [archive.subarray(0, MIB / 2), archive.subarray(MIB / 2)].map(input =>
		execFileSync('zstd', ['-q', '-c'], {input}),
	);
	const bytes = Buffer.concat(frames);
	await expect(contentsOf(readVma(uncompressed(inPieces(bytes))))).resolves.toBeDefined();
	for (const cut of [bytes.subarray(0, -1), bytes.subarray(0, -20), bytes.subarray(0, frames[0]!.length + 5)]) {
		await expect(contentsOf(readVma(uncompressed(inPieces(cut))))).rejects.toMatchObject({code: 'DAMAGED'});
	}
});

test('an error of the source comes through, compressed or not', async () => {
	const frame = execFileSync('zstd', ['-q', '-c'], {input: randomBytes(500_000), maxBuffer: MIB});
	const failure = new Error('the disk is gone');
	for (const bytes of [frame, Buffer.from('VMA\0')]) {
		const failing = async function* () {
			yield* inPieces(bytes.subarray(0, bytes.length / 2 + 3), 1000);
			throw failure;
		};
		await expect(collected(uncompressed(failing()))).rejects.toBe(failure);
	}
});

test('a source is closed when nobody reads on', async () => {
	const frame = execFileSync('zstd', ['-q', '-c'], {input: randomBytes(500_000), maxBuffer: MIB});
	for (const bytes of [frame, Buffer.alloc(500_000, 1)]) {
		const closed = vi.fn();
		const source = async function* () {
			try {
				yield* inPieces(bytes, 100_000);
			} finally {
				closed();
			}
		};
		for await (const chunk of uncompressed(source())) if (chunk.length > 0) break;
		await vi.waitFor(() => {
			expect(closed).toHaveBeenCalled();
		});
	}
});

test('what an output that hangs has not taken is bounded', async () => {
	const hanging = Promise.withResolvers<undefined>();
	const compressor = compressTo(() => hanging.promise);
	let taken = 0;
	const bringing = (async () => {
		for (; taken < 64; taken++) await compressor.output([Buffer.alloc(MIB, taken)]);
	})();
	const stalled = vi.fn(() => taken);
	await vi.waitUntil(() => stalled.mock.results.at(-1)?.value === stalled() && taken > 0, {interval: 200});
	expect(taken).toBeLessThanOrEqual(8);
	hanging.resolve(undefined);
	await bringing;
	await compressor.finish();
});

test('a file that cannot be written fails the archive with the reason', async () => {
	await using full = await fs.open('/dev/full', 'w');
	const compressor = compressTo(toFile(full));
	const writing = async (): Promise<void> => {
		for (let at = 0; at < 64; at++) await compressor.output([randomBytes(MIB)]);
	};
	await expect(writing()).rejects.toMatchObject({code: 'ENOSPC'});
	await expect(compressor.finish()).rejects.toMatchObject({code: 'ENOSPC'});
});
