import fs, {type FileHandle} from 'node:fs/promises';
import path from 'node:path';
import type {Writable} from 'node:stream';
import {errnoOf, QuiesceError, UsageError} from '../../errors.ts';
import {fileError, isThere, moveToFreeName, syncFolder} from '../../repository/durable-files.ts';
import {toFile, toStream, type VmaOutput} from '../../vma/output.ts';
import {compressTo} from '../../vma/zstd.ts';

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
	const archive = await create(opened, target.path);
	const index = beside === 'index' ? await create(opened, indexFile(target.path)) : undefined;
	const handles = index ? [archive, index] : [archive];
	const compressor = compression === 'zstd' ? compressTo(toFile(archive)) : undefined;
	const owned = opened.move();
	return {
		archive: compressor?.output ?? toFile(archive),
		index: index && toFile(index),
		finish: async () => {
			await compressor?.finish();
			for (const handle of handles) await handle.sync();
			for (const handle of handles) await handle.close();
			// Whoever sees the archive finds its index.
			for (const file of files.toReversed()) await appear(file);
			await syncFolder(path.dirname(target.path));
		},
		abandon: () => owned.disposeAsync(),
	};
}

function openStream(stream: Writable, compression: 'none' | 'zstd'): ArchiveOutput {
	const compressor = compression === 'zstd' ? compressTo(toStream(stream)) : undefined;
	return {
		archive: compressor?.output ?? toStream(stream),
		index: undefined,
		finish: async () => compressor?.finish(),
		abandon: () => Promise.resolve(),
	};
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
		throw new UsageError(`${partial} exists: another export writes it, or one that died has left it`, {
			hint: 'Remove it if nobody writes it, or name another file.',
		});
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
