import fs from 'node:fs/promises';
import {QuiesceError} from '../errors.ts';
import {cloneFile} from '../images/clone-file.ts';
import {ContentHashes} from '../images/content-hashes.ts';
import * as codec from '../images/hash-records.ts';
import {openPlainFile} from '../images/plain-file.ts';

/** A whole number of records. */
const CHUNK_BYTES = 16_384 * codec.RECORD_BYTES;
/** A smaller file is not worth the trouble. */
const COMPACT_BYTES = 1024 * 1024;

/** Writes a new file that only this user may read, and waits until it is on the disk. Its folder is not synced. */
export async function writeHashes(
	file: string,
	records: Iterable<codec.HashRecord> | AsyncIterable<codec.HashRecord>,
): Promise<void> {
	const handle = await fs.open(file, 'wx', 0o600);
	try {
		let parts = [codec.encodeHeader()];
		const write = async (): Promise<void> => {
			await handle.writeFile(Buffer.concat(parts));
			parts = [];
		};
		for await (const record of records) {
			parts.push(codec.encodeRecord(record));
			if (parts.length * codec.RECORD_BYTES >= CHUNK_BYTES) await write();
		}
		await write();
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/**
 * Writes the hashes of a clone: those of the image that it was made of, and of what was written to it since. Costs what was
 * written, as the clone does: the file is a clone too, with records at its end; only now and then, when half of them
 * are of no use any more, is it written anew.
 */
export async function extendHashes(
	from: string,
	file: string,
	sizeBytes: number,
	records: AsyncIterable<codec.HashRecord>,
): Promise<void> {
	await cloneFile(from, file);
	const before = (await fs.stat(file)).size;
	const handle = await fs.open(file, 'a');
	try {
		for await (const record of records) await handle.writeFile(codec.encodeRecord(record));
		await handle.sync();
	} finally {
		await handle.close();
	}
	const {size} = await fs.stat(file);
	// Looked at whenever it has doubled.
	if (size < COMPACT_BYTES || Math.floor(Math.log2(size)) === Math.floor(Math.log2(before))) return;
	const composed = await composeHashes([file], sizeBytes);
	await fs.rm(file);
	await writeHashes(file, composed.records());
}

/** The records of a file of a disk's. Throws the system's error, or `DAMAGED`. */
export async function* readHashes(file: string, sizeBytes: number): AsyncGenerator<codec.HashRecord> {
	const handle = await openPlainFile(file);
	try {
		const read = async (bytes: number): Promise<Buffer> => {
			const buffer = Buffer.allocUnsafeSlow(bytes);
			let filled = 0;
			for (let count = -1; count !== 0 && filled < bytes; filled += count) {
				count = (await handle.read(buffer, filled, bytes - filled, null)).bytesRead;
			}
			return buffer.subarray(0, filled);
		};
		codec.checkHeader(await read(codec.HEADER_BYTES));
		for (let chunk = await read(CHUNK_BYTES); chunk.length > 0; chunk = await read(CHUNK_BYTES)) {
			yield* codec.decodeBody(chunk, sizeBytes);
		}
	} catch (error) {
		if (!(error instanceof QuiesceError)) throw error;
		throw new QuiesceError(error.code, `${file} is damaged: ${error.message}`, {cause: error});
	} finally {
		await handle.close();
	}
}

/** What a chain holds, from the files of its images, the base's first. */
export async function composeHashes(files: readonly string[], sizeBytes: number): Promise<ContentHashes> {
	const hashes = ContentHashes.empty(sizeBytes);
	for (const file of files) for await (const record of readHashes(file, sizeBytes)) hashes.set(record);
	return hashes;
}

/**
 * Writes what the image holds that two of a chain are merged to, as one file without a record too many. Zeroes are to be
 * omitted only where the lower image has no backing file.
 */
export async function mergeHashes(
	{base, tip, merged}: {readonly base: string; readonly tip: string; readonly merged: string},
	sizeBytes: number,
	zeroes: 'record' | 'omit',
): Promise<void> {
	const hashes = await composeHashes([base, tip], sizeBytes);
	await writeHashes(merged, hashes.records({zeroes}));
}
