import {createHash} from 'node:crypto';
import fs from 'node:fs/promises';
import {availableParallelism} from 'node:os';
import {Worker} from 'node:worker_threads';
import {programBeside} from '../host/program-beside.ts';
import {openPlainFile} from '../images/plain-file.ts';
import type {HashReport} from './hash-worker.ts';

export interface HashOptions {
	/** Aborting rejects with the reason, once no thread reads any more. */
	readonly signal?: AbortSignal | undefined;
	/** How much of a file has been read, about every 16 MiB and at its end. */
	readonly onProgress?: ((file: string, bytes: number) => void) | undefined;
}

export interface FileHash {
	readonly sha256: string;
	readonly bytes: number;
}

/** Below this, starting a thread takes longer than hashing (measured on two busy cores: 60 ms, and 9 ms to hash 8 MiB). */
const SMALL_BYTES = 8 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;
const REPORT_EVERY_BYTES = 16 * CHUNK_BYTES;

const program = programBeside(import.meta.url, 'hash-worker');

/**
 * The SHA-256 of each file, read in parallel by as many threads as there are cores. Links are not followed. The outcome
 * of a file that cannot be read is the error; it is not thrown.
 */
export async function hashFiles(
	files: readonly string[],
	options: HashOptions = {},
): Promise<ReadonlyMap<string, FileHash | Error>> {
	const hashes = new Map<string, FileHash | Error>();
	const rest = files.values();
	// This thread is one of them: it has nothing else to do, and a megabyte at a time does not block it for long.
	const hashRest = async (_: unknown, thread: number): Promise<void> => {
		for (const file of rest) hashes.set(file, await attempt(file, thread === 0 ? 'here' : 'worker', options));
	};
	const threads = Math.min(availableParallelism(), files.length);
	const ends = await Promise.allSettled(Array.from({length: threads}, hashRest));
	for (const end of ends) if (end.status === 'rejected') throw end.reason;
	return hashes;
}

/** For `onProgress`: sums up files that are read side by side, of which `bytesTotal` are known to come. */
export function sumProgress(
	bytesTotal: number,
	tell: (bytesRead: number, bytesTotal: number) => void,
): (file: string, bytes: number) => void {
	const parts = new Map<string, number>();
	return (file, bytes) => {
		parts.set(file, bytes);
		const sum = [...parts.values()].reduce((one, other) => one + other, 0);
		tell(Math.min(sum, bytesTotal), bytesTotal);
	};
}

async function attempt(file: string, where: 'here' | 'worker', options: HashOptions): Promise<FileHash | Error> {
	options.signal?.throwIfAborted();
	try {
		const {size} = await fs.lstat(file);
		return await (where === 'here' || size < SMALL_BYTES ? hashHere(file, options) : hashInWorker(file, options));
	} catch (error) {
		options.signal?.throwIfAborted();
		if (error instanceof Error) return error;
		throw error;
	}
}

async function hashHere(file: string, {signal, onProgress}: HashOptions): Promise<FileHash> {
	const handle = await openPlainFile(file);
	try {
		const sum = createHash('sha256');
		const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
		let bytes = 0;
		for (let read = -1; read !== 0; bytes += read) {
			signal?.throwIfAborted();
			read = (await handle.read(chunk, 0, CHUNK_BYTES, null)).bytesRead;
			sum.update(chunk.subarray(0, read));
			if (bytes % REPORT_EVERY_BYTES === 0 && bytes > 0) onProgress?.(file, bytes);
		}
		onProgress?.(file, bytes);
		return {sha256: sum.digest('hex'), bytes};
	} finally {
		await handle.close();
	}
}

async function hashInWorker(file: string, {signal, onProgress}: HashOptions): Promise<FileHash> {
	// Refuses what is no plain file; the worker then reads nothing else either, since it follows no link.
	await (await openPlainFile(file)).close();
	signal?.throwIfAborted();
	const worker = new Worker(program, {
		workerData: file,
		execArgv: ['--disable-warning=ExperimentalWarning'],
		resourceLimits: {maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 4},
	});
	const stop = (): void => void worker.terminate();
	signal?.addEventListener('abort', stop, {once: true});
	try {
		const last = await lastReport(worker, bytes => onProgress?.(file, bytes));
		signal?.throwIfAborted();
		if (last?.failed) throw Object.assign(new Error(last.failed.message), last.failed);
		if (last?.sha256 === undefined) throw new Error(`the thread that hashed ${file} ended early`);
		return {sha256: last.sha256, bytes: last.bytes};
	} finally {
		signal?.removeEventListener('abort', stop);
	}
}

/** Waits for the end of the thread, not only for its answer. */
function lastReport(worker: Worker, onBytes: (bytes: number) => void): Promise<HashReport | undefined> {
	return new Promise((resolve, reject) => {
		let last: HashReport | undefined;
		worker.on('message', (report: HashReport) => {
			last = report;
			if (!report.failed) onBytes(report.bytes);
		});
		worker.once('error', reject);
		worker.once('exit', () => {
			resolve(last);
		});
	});
}
