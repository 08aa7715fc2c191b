import {createReadStream} from 'node:fs';
import fs from 'node:fs/promises';
import type {Readable} from 'node:stream';
import {fileError} from '../../repository/durable-files.ts';
import type {VmaEvent} from '../../vma/decoder.ts';
import {VmaIndexReader} from '../../vma/index-reader.ts';
import {checkedAgainst, readVma} from '../../vma/reader.ts';
import {uncompressed} from '../../vma/zstd.ts';
import {indexBeside} from './archive-output.ts';

/** Where an archive is read from. */
export type ArchiveSource =
	| {readonly kind: 'file'; readonly path: string; readonly index?: string | undefined}
	| {readonly kind: 'stream'; readonly stream: Readable; readonly index?: string | undefined};

export interface ReadArchive {
	/** Compared with the checksums of the index where there is one. To be read once, to its end. */
	readonly events: AsyncIterable<VmaEvent>;
	readonly checked: 'by-index' | 'not-at-all';
	/** Before decompression: how much has been read, and of how much, where that is known. */
	readonly progress: () => {readonly bytesRead: number; readonly bytesTotal: number | undefined};
	readonly close: () => Promise<void>;
}

/**
 * Opens an archive, compressed or not. Its index is the one that is named, or that which lies beside a file. Aborting the signal ends
 * the reading with its reason.
 */
export async function openArchiveSource(source: ArchiveSource, signal?: AbortSignal): Promise<ReadArchive> {
	const [readable, bytesTotal] = source.kind === 'stream' ? [source.stream, undefined] : await openFile(source.path);
	const state = {bytesRead: 0};
	const bytes = async function* (): AsyncGenerator<Buffer, void, void> {
		for await (const chunk of readable) {
			signal?.throwIfAborted();
			state.bytesRead += (chunk as Buffer).length;
			yield chunk as Buffer;
		}
	};
	const events = readVma(uncompressed(bytes()));
	const index = await openIndex(source);
	return {
		events: index ? checkedAgainst(index, events) : events,
		checked: index ? 'by-index' : 'not-at-all',
		progress: () => ({bytesRead: state.bytesRead, bytesTotal}),
		close: async () => {
			readable.destroy();
			await index?.close();
		},
	};
}

async function openFile(file: string): Promise<[Readable, number]> {
	const stat = await fs.stat(file).catch((error: unknown) => {
		throw fileError('read', file, error);
	});
	return [createReadStream(file, {highWaterMark: 1024 * 1024}), stat.size];
}

async function openIndex(source: ArchiveSource): Promise<VmaIndexReader | undefined> {
	const file = source.index ?? (source.kind === 'file' ? await indexBeside(source.path) : undefined);
	if (file === undefined) return undefined;
	await fs.access(file).catch((error: unknown) => {
		throw fileError('read', file, error);
	});
	return VmaIndexReader.open(createReadStream(file));
}
