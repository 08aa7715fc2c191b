import {VmaDamagedError} from './errors.ts';
import {BLOCK_BYTES, blocksIn} from './geometry.ts';
import {isSound, seal} from './md5.ts';

/** One cluster in an extent: which of its blocks are stored there. */
export interface VmaEntry {
	readonly deviceId: number;
	readonly cluster: number;
	readonly mask: number;
}

/** An extent header as it was read. */
export interface VmaExtent {
	/** Of its header, in the archive. */
	readonly offset: number;
	/** The data of each follows that of the one before. */
	readonly entries: readonly VmaEntry[];
	/** Of the data after the header. */
	readonly dataBytes: number;
}

export const EXTENT_HEADER_BYTES = 512;
export const MAX_ENTRIES = 59;
/** Of the information about a cluster in the header: mask, a reserved byte, the device's number, the cluster's. */
export const ENTRY_BYTES = 8;
/** Of the first of them. */
export const ENTRIES_AT = 40;

const MAGIC = 'VMAE';
const RESERVED_AT = 4;
const BLOCKS_AT = 6;
const UUID_AT = 8;
const MD5_AT = 24;

/** The header of an extent without entries. It is to be sealed. */
export function emptyExtentHeader(uuid: Buffer): Buffer {
	const header = Buffer.alloc(EXTENT_HEADER_BYTES);
	header.write(MAGIC, 'latin1');
	header.set(uuid, UUID_AT);
	return header;
}

export function putEntry(header: Buffer, slot: number, {deviceId, cluster, mask}: VmaEntry): void {
	const at = slotAt(slot);
	header.writeUInt16BE(mask, at);
	header.writeUInt16BE(deviceId, at + 2);
	header.writeUInt32BE(cluster, at + 4);
}

/** A device's number has the reserved byte in it, which makes it none that there is. */
export function decodeEntry(bytes: Buffer, at: number): VmaEntry {
	return {mask: bytes.readUInt16BE(at), deviceId: bytes.readUInt16BE(at + 2), cluster: bytes.readUInt32BE(at + 4)};
}

/** Completes a header: nothing of it may change afterwards. */
export function sealExtentHeader(header: Buffer, blocks: number): void {
	header.writeUInt16BE(blocks, BLOCKS_AT);
	seal(header, MD5_AT);
}

/** Of a slot, in the header. */
function slotAt(slot: number): number {
	return ENTRIES_AT + slot * ENTRY_BYTES;
}

/**
 * Decodes the {@link EXTENT_HEADER_BYTES} at `offset` of an archive. Whether there are such devices and clusters is for the
 * {@link ClusterAccount}, which the entries are `taken` to with the offset of each, in their order.
 */
export function decodeExtentHeader(
	header: Buffer,
	offset: number,
	uuid: Buffer,
	taken: (entry: VmaEntry, offset: number) => void,
): VmaExtent {
	const magic = header.toString('latin1', 0, MAGIC.length);
	if (magic !== MAGIC)
		throw new VmaDamagedError(offset, `expected an extent or the end, found ${JSON.stringify(magic)}`);
	if (!isSound(header, MD5_AT)) {
		throw new VmaDamagedError(offset + MD5_AT, "expected the MD5 of the extent's header, found another");
	}
	if (!header.subarray(UUID_AT, MD5_AT).equals(uuid)) {
		throw new VmaDamagedError(offset + UUID_AT, 'expected the UUID of the archive, found that of another');
	}
	const reserved = header.readUInt16BE(RESERVED_AT);
	if (reserved !== 0)
		throw new VmaDamagedError(offset + RESERVED_AT, `expected 0 in reserved bytes, found ${reserved}`);
	const entries: VmaEntry[] = [];
	let stored = 0;
	for (let slot = 0; slot < MAX_ENTRIES; slot++) {
		const at = slotAt(slot);
		const entry = decodeEntry(header, at);
		if (entry.deviceId === 0) continue;
		taken(entry, offset + at);
		entries.push(entry);
		stored += blocksIn(entry.mask);
	}
	const blocks = header.readUInt16BE(BLOCKS_AT);
	if (blocks !== stored) {
		throw new VmaDamagedError(
			offset + BLOCKS_AT,
			`expected a count of ${stored} blocks as in the masks, found ${blocks}`,
		);
	}
	return {offset, entries, dataBytes: blocks * BLOCK_BYTES};
}
