import {execFileSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {createReadStream} from 'node:fs';
import fs from 'node:fs/promises';
import {expect, onTestFinished, test, vi} from 'vitest';
import {readVma} from '../../src/vma/reader.ts';
import {VmaWriter} from '../../src/vma/writer.ts';
import {compressTo, type Compressor, uncompressed} from '../../src/vma/zstd.ts';
import {areSame, contentsOf, headerOf, inPieces, someContent, written} from './archives.ts';
import {temporaryFolder} from './temporary-folder.ts';

const MIB = 1024 * 1024;

interface Started {
	readonly file: string;
	readonly compressor: Compressor;
}

async function started(): Promise<Started> {
	const file = `${await temporaryFolder()}/a.vma.zst`;
	const handle = await fs.open(file, 'wx');
	onTestFinished(() => handle.close());
	const compressor = await compressTo({fd: handle.fd, object: 'a.vma.zst'});
	onTestFinished(() => compressor.kill());
	return {file, compressor};
}

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
	const size = 5 * MIB + 512;
	const content = someContent(size, 8);
	const {file, compressor} = await started();
	const writer = new VmaWriter({header: headerOf(size), output: compressor.output});
	await writer.write(1, 0, content);
	const {bytes} = await writer.finish();
	await compressor.finish();
	expect(execFileSync('zstd', ['-q', '-d', '-c', file], {maxBuffer: 64 * MIB}).length).toBe(bytes);
	const {contents} = await contentsOf(readVma(uncompressed(createReadStream(file))));
	expect(areSame(contents, new Map([['drive-scsi0', content]]))).toBe(true);
});

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

test('a zstd that is killed fails the archive, and leaves no frame that looks whole', async () => {
	const {file, compressor} = await started();
	const data = randomBytes(16 * MIB);
	await compressor.output([data]);
	await compressor.kill();
	await expect(compressor.output([data])).rejects.toThrow('zstd failed on a.vma.zst: it was ended by SIGKILL');
	await expect(compressor.finish()).rejects.toThrow('it was ended by SIGKILL');
	await expect(contentsOf(readVma(uncompressed(createReadStream(file))))).rejects.toMatchObject({code: 'DAMAGED'});
});

test('a file that cannot be written fails the archive with the reason of zstd', async () => {
	const full = await fs.open('/dev/full', 'w');
	onTestFinished(() => full.close());
	const compressor = await compressTo({fd: full.fd, object: 'a.vma.zst'});
	const writing = async (): Promise<void> => {
		for (let at = 0; at < 64; at++) await compressor.output([randomBytes(MIB)]);
		await compressor.finish();
	};
	await expect(writing()).rejects.toThrow(/zstd failed on a\.vma\.zst: .*No space left on device/);
});

test('a zstd that is not installed is asked for', async () => {
	vi.stubEnv('PATH', await pathWithout('zstd'));
	onTestFinished(() => {
		vi.unstubAllEnvs();
	});
	const {compressor} = await started();
	await expect(compressor.finish()).rejects.toMatchObject({
		message: 'zstd is not installed, and is needed for a.vma.zst',
		hint: 'Install it: apt-get install zstd',
	});
});

/** A folder with a few programs and not this one. */
async function pathWithout(program: string): Promise<string> {
	const folder = await temporaryFolder();
	for (const name of ['sh', 'setpriv', 'true']) await fs.symlink(`/usr/bin/${name}`, `${folder}/${name}`);
	expect(await fs.readdir(folder)).not.toContain(program);
	return folder;
}
