import fs, {type FileHandle} from 'node:fs/promises';
import path from 'node:path';
import type {Writable} from 'node:stream';
import {errnoOf, QuiesceError, UsageError} from '../../errors.ts';
import {type HostLock, LockedError, takeLock} from '../../host/lock.ts';
import {fileError, isThere, moveToFreeName, syncFolder} from '../../repository/durable-files.ts';
import {toFile, toStream, type VmaOutput} from '../../vma/output.ts';
import {type Compressor, compressTo, ZSTD_MAGIC} from '../../vma/zstd.ts';

/** Where an archive goes: to a file, which appears when it is whole, or to a stream that somebody reads. */
export type ArchiveTarget =
	{readonly kind: 'file'; readonly path: string} | {readonly kind: 'stream'; readonly stream: Writable};

export interface ArchiveOutput {
	readonly archive: VmaOutput;
	/** Of a file alone: an archive that is streamed has nowhere to keep one. */
	readonly index: VmaOutput | undefined;
	/** All is written: makes it durable and lets it appear. */
	readonly finish: () => Promise<void>;
	/** Leaves no file. */
	readonly abandon: () => Promise<void>;
}

const PARTIAL = '.partial';

/** The file of checksums beside an archive. */
export function indexFile(archive: string): string {
	return `${archive}.index.json`;
}

/** That which lies beside an archive, if any does. */
export async function indexBeside(archive: string): Promise<string | undefined> {
	const file = indexFile(archive);
	return (await isThere(file)) ? file : undefined;
}

/** Files are made at once, under names that say that they are not whole; those that they are to get have to be free. */
export async function openArchiveOutput(
	target: ArchiveTarget,
	compression: 'none' | 'zstd',
	beside: 'index' | 'no-index' = 'index',
): Promise<ArchiveOutput> {
	if (target.kind === 'stream') return openStream(target.stream, compression);
	const files = beside === 'index' ? [target.path, indexFile(target.path)] : [target.path];
	for (const file of files) await requireFree(file);
	await using opened = new AsyncDisposableStack();
	const lock = await lockName(target.path);
	opened.defer(() => lock.release());
	const archive = await create(opened, target.path);
	const index = beside === 'index' ? await create(opened, indexFile(target.path)) : undefined;
	const handles = index ? [archive, index] : [archive];
	const packed = pack(toFile(archive), compression);
	const owned = opened.move();
	return {
		archive: packed.output,
		index: index && toFile(index),
		finish: async () => {
			await packed.finish();
			for (const handle of handles) await handle.sync();
			for (const handle of handles) await handle.close();
			// Whoever sees the archive finds its index.
			await appearTogether(files.toReversed());
			await syncFolder(path.dirname(target.path));
			await lock.release();
		},
		abandon: () => owned.disposeAsync(),
	};
}

function openStream(stream: Writable, compression: 'none' | 'zstd'): ArchiveOutput {
	const {output, finish} = pack(toStream(stream), compression);
	return {archive: output, index: undefined, finish, abandon: () => Promise.resolve()};
}

function pack(output: VmaOutput, compression: 'none' | 'zstd'): Compressor {
	return compression === 'zstd' ? compressTo(output) : {output, finish: () => Promise.resolve()};
}

async function create(opened: AsyncDisposableStack, file: string): Promise<FileHandle> {
	const partial = file + PARTIAL;
	try {
		const handle = await fs.open(partial, 'wx', 0o600);
		opened.defer(async () => {
			await handle.close().catch(() => undefined);
			await fs.rm(partial, {force: true});
		});
		return handle;
	} catch (error) {
		if (errnoOf(error) !== 'EEXIST') throw fileError('create', partial, error);
		if (!(await isBegun(partial))) {
			throw new UsageError(`${partial} exists, and is no archive that was begun`, {
				hint: 'Remove it, or name another file.',
			});
		}
		// Who had begun it has died: the lock of its name was free.
		await fs.rm(partial);
		return create(opened, file);
	}
}

/** Of the name that an archive is to have. It goes with this process, however that ends. */
async function lockName(file: string): Promise<HostLock> {
	const name = path.join(await fs.realpath(path.dirname(file)).catch(() => path.dirname(file)), path.basename(file));
	try {
		return await takeLock(`archive ${name}`, file, {pid: process.pid, run: '', doing: 'an export'});
	} catch (cause) {
		if (!(cause instanceof LockedError)) throw cause;
		throw new UsageError(`${file} is being written by another export, process ${cause.holder?.pid ?? '?'}`, {
			cause,
			hint: 'Name another file, or wait for its end.',
		});
	}
}

/** What an archive, or its index, begins with, if it begins with anything. */
async function isBegun(partial: string): Promise<boolean> {
	await using handle = await fs.open(partial, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
	const {buffer, bytesRead} = await handle.read(Buffer.alloc(4), 0, 4, 0);
	const start = buffer.subarray(0, bytesRead);
	const starts = [Buffer.from('VMA\0'), ZSTD_MAGIC, Buffer.from('{')];
	return start.length === 0 || starts.some(magic => start.subarray(0, magic.length).equals(magic));
}

/** Where one of them cannot, none does. */
async function appearTogether(files: readonly string[]): Promise<void> {
	const appeared: string[] = [];
	try {
		for (const file of files) {
			await appear(file);
			appeared.push(file);
		}
	} catch (error) {
		for (const file of appeared) await fs.rm(file);
		throw error;
	}
}

async function requireFree(file: string): Promise<void> {
	if (await isThere(file))
		throw new UsageError(`${file} exists, and is not overwritten`, {hint: 'Name another file, or remove it.'});
}

async function appear(file: string): Promise<void> {
	await moveToFreeName(file + PARTIAL, file).catch((cause: unknown) => {
		if (errnoOf(cause) !== 'EEXIST') throw cause;
		throw new QuiesceError('FAILED', `${file} has appeared meanwhile, and is not overwritten`, {cause});
	});
}
