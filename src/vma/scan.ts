import type {FileHandle} from 'node:fs/promises';
import {ClusterAccount} from './cluster-account.ts';
import {decodeHeader, headerBytesOf} from './decode-header.ts';
import {VmaDamagedError} from './errors.ts';
import {decodeExtentHeader, EXTENT_HEADER_BYTES, type VmaExtent} from './extent.ts';
import {readAt} from './file-reader.ts';
import {HEADER, uuidBytes, type VmaHeader} from './header.ts';

/** Where there is next to no data one read has the headers of many extents. */
const WINDOW_BYTES = 64 * 1024;

export interface ReadHeader {
	readonly header: VmaHeader;
	/** As it stands in the archive. */
	readonly bytes: Buffer;
}

/** Reads the header of an archive in a file. Throws {@link VmaDamagedError}. */
export async function readHeader(file: FileHandle): Promise<ReadHeader> {
	const fixed = await readWhole(file, 0, HEADER.fixedBytes);
	const bytes = await readWhole(file, 0, headerBytesOf(fixed));
	return {header: decodeHeader(bytes), bytes};
}

/** The extents of an archive in a file, with all of their headers checked, but without a look at the data. */
export async function* scanExtents(
	file: FileHandle,
	{header, bytes}: ReadHeader,
): AsyncGenerator<VmaExtent, void, void> {
	const {size} = await file.stat();
	const uuid = uuidBytes(header.uuid);
	const account = new ClusterAccount(header.devices);
	let window: Window = {offset: 0, bytes: Buffer.alloc(0)};
	for (let offset = bytes.length; offset < size;) {
		if (offset + EXTENT_HEADER_BYTES > window.offset + window.bytes.length) {
			window = {offset, bytes: await readAt(file, offset, WINDOW_BYTES)};
		}
		const at = offset - window.offset;
		const encoded = window.bytes.subarray(at, at + EXTENT_HEADER_BYTES);
		requireAll(encoded, offset, EXTENT_HEADER_BYTES);
		const extent = decodeExtentHeader(encoded, offset, uuid, (entry, entryAt) => account.take(entry, entryAt));
		offset += EXTENT_HEADER_BYTES + extent.dataBytes;
		if (offset > size) throw new VmaDamagedError(size, `expected ${offset - size} more bytes of data, found the end`);
		yield extent;
	}
	account.finish(size);
}

interface Window {
	readonly offset: number;
	readonly bytes: Buffer;
}

async function readWhole(file: FileHandle, offset: number, bytes: number): Promise<Buffer> {
	return requireAll(await readAt(file, offset, bytes), offset, bytes);
}

function requireAll(found: Buffer, offset: number, bytes: number): Buffer {
	if (found.length === bytes) return found;
	throw new VmaDamagedError(offset + found.length, `expected ${bytes - found.length} more bytes, found the end`);
}
