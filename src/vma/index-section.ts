import {constants, zstdCompressSync, zstdDecompressSync} from 'node:zlib';
import {asError} from '../errors.ts';
import {VmaIndexError} from './errors.ts';
import {ENTRY_BYTES, MAX_ENTRIES} from './extent.ts';

/** Of one section of an index. Together they tell of 3.7 GiB of data, or of zeroes. */
export const MAX_EXTENTS = 1024;
const COUNT_BYTES = 4;
const CHECKSUM_BYTES = 4;
const MAX_SECTION_BYTES = COUNT_BYTES + MAX_EXTENTS * (1 + MAX_ENTRIES * (ENTRY_BYTES + CHECKSUM_BYTES));
export const MAX_BASE64_CHARACTERS = Math.ceil(MAX_SECTION_BYTES / 3) * 4 + 1024;

/** What a section tells of an extent. */
export interface SectionExtent {
	/** As they stand in its header, {@link ENTRY_BYTES} each, without the empty ones. */
	readonly entries: Buffer;
	readonly checksums: readonly number[];
}

/**
 * Packs what is told of at most {@link MAX_EXTENTS}, in their order: the count of extents in 4 bytes; for each extent the
 * count of its entries in one byte; the first bytes of all entries, then all second bytes, and so on to the eighth, because
 * so they can be compressed to next to nothing; the CRC-32 of each entry in 4 bytes. Numbers are big-endian. All this is one
 * zstd frame, with its checksum, in base64.
 */
export function encodeSection(extents: readonly SectionExtent[]): string {
	const entries = Buffer.concat(extents.map(extent => extent.entries));
	const total = entries.length / ENTRY_BYTES;
	const entriesAt = COUNT_BYTES + extents.length;
	const checksumsAt = entriesAt + entries.length;
	const bytes = Buffer.alloc(checksumsAt + total * CHECKSUM_BYTES);
	bytes.writeUInt32BE(extents.length);
	for (const [index, extent] of extents.entries()) bytes[COUNT_BYTES + index] = extent.entries.length / ENTRY_BYTES;
	for (let plane = 0, to = entriesAt; plane < ENTRY_BYTES; plane++) {
		for (let from = plane; from < entries.length; from += ENTRY_BYTES) bytes[to++] = entries[from] ?? 0;
	}
	let at = checksumsAt;
	for (const {checksums} of extents) for (const checksum of checksums) at = bytes.writeUInt32BE(checksum, at);
	return zstdCompressSync(bytes, {params: {[constants.ZSTD_c_checksumFlag]: 1}}).toString('base64');
}

export function decodeSection(text: string): SectionExtent[] {
	const bytes = unpack(text);
	const extents = bytes.length < COUNT_BYTES ? 0 : bytes.readUInt32BE(0);
	const counts = bytes.subarray(COUNT_BYTES, COUNT_BYTES + extents);
	const total = counts.reduce((sum, count) => sum + count, 0);
	const entriesAt = COUNT_BYTES + extents;
	const checksumsAt = entriesAt + total * ENTRY_BYTES;
	if (extents > MAX_EXTENTS || bytes.length !== checksumsAt + total * CHECKSUM_BYTES) {
		throw new VmaIndexError(`is damaged: a section for ${extents} extents has ${bytes.length} bytes`);
	}
	const entries = Buffer.alloc(total * ENTRY_BYTES);
	for (let plane = 0, from = entriesAt; plane < ENTRY_BYTES; plane++) {
		for (let to = plane; to < entries.length; to += ENTRY_BYTES) entries[to] = bytes[from++] ?? 0;
	}
	let first = 0;
	return Array.from(counts, count => {
		const from = first;
		first += count;
		return {
			entries: entries.subarray(from * ENTRY_BYTES, first * ENTRY_BYTES),
			checksums: Array.from({length: count}, (_, at) => bytes.readUInt32BE(checksumsAt + (from + at) * CHECKSUM_BYTES)),
		};
	});
}

function unpack(text: string): Buffer {
	try {
		return zstdDecompressSync(Buffer.from(text, 'base64'), {maxOutputLength: MAX_SECTION_BYTES});
	} catch (error) {
		throw new VmaIndexError(`is damaged: a section cannot be unpacked: ${asError(error).message}`, {cause: error});
	}
}
