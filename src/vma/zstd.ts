import {availableParallelism} from 'node:os';
import {pipeline} from 'node:stream';
import zlib from 'node:zlib';
import {asError, QuiesceError} from '../errors.ts';
import type {VmaOutput} from './output.ts';

const CHUNK_BYTES = 256 * 1024;
/** What goes into one frame: more would hardly be smaller. */
const FRAME_BYTES = 2 * 1024 * 1024;
/** In such frames it makes archives a little smaller than level 3 makes qcow2, in two thirds of the time. */
const LEVEL = 1;
/** Compressed at the same time. Node has four threads by default, and one is to be left for what is written. */
const FRAMES_AT_ONCE = Math.min(availableParallelism(), 3);
/** With which whatever is compressed begins. */
export const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

export interface Compressor {
	/** Takes what is to be compressed. */
	readonly output: VmaOutput;
	/** There is no more. Resolves once all is written; throws if it is not. */
	readonly finish: () => Promise<void>;
}

/** Compresses one frame at a time: a stream is used over and over, since what belongs to one takes long to be made. */
interface Lane {
	readonly plain: Buffer;
	readonly compress: (bytes: number) => Promise<readonly Buffer[]>;
	/** Resolves when what was in it is written: then there can be something else. */
	written: Promise<void>;
}

/**
 * Compresses in frames of 2 MiB, by several threads, and writes them in their order. What holds them is bounded: 2 MiB and what
 * comes of it, for each processor up to three, and one more. (Node's stream has threads as a parameter too, but with it stops
 * without an end: 22 to 26.)
 */
export function compressTo(output: VmaOutput): Compressor {
	/** That which was used longest ago comes first. */
	const lanes = Array.from({length: FRAMES_AT_ONCE}, openLane);
	let lane = openLane();
	let filled = 0;
	let lastWritten = Promise.resolve();

	const close = (): void => {
		lane.written = Promise.all([lane.compress(filled), lastWritten]).then(([pieces]) => output(pieces));
		// Whoever fills it next is told, or whoever waits for the last one.
		lane.written.catch(() => undefined);
		lastWritten = lane.written;
		lanes.push(lane);
		lane = lanes.shift() ?? lane;
		filled = 0;
	};
	const add = async (piece: Buffer): Promise<void> => {
		for (let at = 0; at < piece.length;) {
			if (filled === 0) await lane.written;
			const taken = piece.copy(lane.plain, filled, at);
			filled += taken;
			at += taken;
			if (filled === FRAME_BYTES) close();
		}
	};
	return {
		output: async pieces => {
			for (const piece of pieces) await add(piece);
		},
		finish: async () => {
			if (filled > 0) close();
			await lastWritten;
		},
	};
}

function openLane(): Lane {
	const plain = Buffer.allocUnsafeSlow(FRAME_BYTES);
	const stream = zlib.createZstdCompress({
		chunkSize: CHUNK_BYTES,
		params: {[zlib.constants.ZSTD_c_compressionLevel]: LEVEL, [zlib.constants.ZSTD_c_checksumFlag]: 1},
	});
	let pieces: Buffer[] = [];
	stream.on('data', (piece: Buffer) => pieces.push(piece));
	const compress = (bytes: number): Promise<readonly Buffer[]> =>
		new Promise((resolve, reject) => {
			stream.once('error', reject);
			stream.write(plain.subarray(0, bytes));
			stream.flush(zlib.constants.ZSTD_e_end, () => {
				stream.off('error', reject);
				// What it has not handed out by itself.
				while (stream.read() !== null);
				resolve(pieces);
				pieces = [];
			});
		});
	return {plain, compress, written: Promise.resolve()};
}

/** An archive as it is before compression, whether it is compressed or not. Holds no more than a piece of it. */
export async function* uncompressed(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, void> {
	const chunks = source[Symbol.asyncIterator]();
	let start: Buffer = Buffer.alloc(0);
	let next = await chunks.next();
	for (; next.done !== true; next = await chunks.next()) {
		start = start.length === 0 ? next.value : Buffer.concat([start, next.value]);
		if (start.length >= ZSTD_MAGIC.length) break;
	}
	const all = async function* (): AsyncGenerator<Buffer, void, void> {
		try {
			yield start;
			yield* {[Symbol.asyncIterator]: () => chunks};
		} finally {
			await chunks.return?.();
		}
	};
	yield* start.subarray(0, ZSTD_MAGIC.length).equals(ZSTD_MAGIC) ? decompress(all()) : all();
}

/**
 * One frame or several. Throws `DAMAGED` where one is not what it was, or the first is cut. Node passes over a cut one after
 * a whole one, as it does over other bytes there: that something is missing is seen by whoever reads the archive.
 */
async function* decompress(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, void> {
	const plain = zlib.createZstdDecompress({chunkSize: CHUNK_BYTES});
	// What it fails with is thrown where its output is taken.
	pipeline(source, plain, () => undefined);
	try {
		for await (const chunk of plain) yield chunk as Buffer;
	} catch (error) {
		const code = error instanceof Error && 'code' in error ? String(error.code) : '';
		if (!/^(ZSTD_|Z_)/.test(code)) throw error;
		const what = code === 'Z_BUF_ERROR' ? 'the end is missing' : asError(error).message;
		throw new QuiesceError(
			'DAMAGED',
			`the zstd frame is damaged, near compressed byte ${plain.bytesWritten}: ${what}`,
			{cause: error},
		);
	}
}
