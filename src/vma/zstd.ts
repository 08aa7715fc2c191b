import {type ChildProcess, spawn} from 'node:child_process';
import type {Writable} from 'node:stream';
import {pipeline} from 'node:stream';
import zlib from 'node:zlib';
import {asError, errnoOf, QuiesceError} from '../errors.ts';
import {dyingWithUs} from '../host/die-with-us.ts';
import {type VmaOutput, toStream} from './output.ts';

const CHUNK_BYTES = 256 * 1024;
const MAX_COMPLAINT_CHARACTERS = 4096;
/** With which whatever is compressed begins. */
export const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

export interface Compressor {
	readonly output: VmaOutput;
	/** There is no more. Resolves once all is written; throws if it is not. */
	readonly finish: () => Promise<void>;
	/** Resolves once nothing is written any more. What is written is then not a whole frame. Does nothing after the end. */
	readonly kill: () => Promise<void>;
}

export interface CompressOptions {
	/** Where it writes, without a way through us. It stays open here. */
	readonly fd: number;
	/** For messages: what is compressed. */
	readonly object: string;
	/** 1 to 19, as of zstd(1). */
	readonly level?: number | undefined;
}

/**
 * Starts zstd(1), which uses all processors. That of Node has threads as a parameter too, but its streams then stop without
 * an end. If we are killed it dies, and leaves no frame that looks whole. Whoever starts it finishes or kills it.
 */
export async function compressTo({fd, object, level = 3}: CompressOptions): Promise<Compressor> {
	const [program, args] = await dyingWithUs('zstd', ['-q', '-c', '-T0', `-${level}`]);
	const child = spawn(program, args, {stdio: ['pipe', fd, 'pipe'], env: {...process.env, LC_ALL: 'C'}});
	let complaint = '';
	child.stderr?.setEncoding('utf8').on('data', (text: string) => {
		complaint = (complaint + text).slice(-MAX_COMPLAINT_CHARACTERS);
	});
	const ended = endOf(child).then(
		({code, signal}) => {
			if (code === 0) return;
			// A shell tells so that there is no such program.
			if (code === 127) throw notInstalled(object);
			throw new QuiesceError(
				'FAILED',
				`zstd failed on ${object}: ${signal ? `it was ended by ${signal}` : complaint.trim().split('\n').at(-1) || `exit code ${code}`}`,
			);
		},
		(error: unknown) => {
			throw errnoOf(error) === 'ENOENT' ? notInstalled(object, error) : error;
		},
	);
	// Whoever writes, or finishes, is told.
	ended.catch(() => undefined);
	const stdin = child.stdin as Writable;
	const write = toStream(stdin);
	return {
		output: async pieces => {
			try {
				await write(pieces);
			} catch (error) {
				// It is gone, and why tells more than that nobody reads.
				await ended;
				throw error;
			}
		},
		finish: async () => {
			stdin.end();
			await ended;
		},
		kill: async () => {
			child.kill('SIGKILL');
			await ended.catch(() => undefined);
		},
	};
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
			{
				cause: error,
			},
		);
	}
}

function endOf(child: ChildProcess): Promise<{code: number | null; signal: NodeJS.Signals | null}> {
	return new Promise((resolve, reject) => {
		child.once('error', reject);
		child.once('close', (code: number | null, signal: NodeJS.Signals | null) => {
			resolve({code, signal});
		});
	});
}

function notInstalled(object: string, cause?: unknown): QuiesceError {
	return new QuiesceError('FAILED', `zstd is not installed, and is needed for ${object}`, {
		cause,
		hint: 'Install it: apt-get install zstd',
	});
}
