import {QuiesceError} from '../errors.ts';
import {openPlainFile} from './plain-file.ts';

/** Entries of the first table, of eight bytes each; an image of many TiB has some thousands. */
const MAX_TABLE_BYTES = 64 * 1024 * 1024;
/** Offsets in a qcow2 header (docs/interop/qcow2.txt in QEMU). */
const MAGIC = 0x51_46_49_fb;
const L1_SIZE = 36;
const L1_OFFSET = 40;
const SNAPSHOTS = 60;
const HEADER_BYTES = 72;

/**
 * Whether a qcow2 image stores nothing at all: no cluster of it, not even a zero one, and no internal snapshot. Such an
 * overlay can be thrown away. To be asked while nobody has the image open for writing. An empty file, which an image
 * becomes, stores nothing either.
 */
export async function storesNothing(image: string): Promise<boolean> {
	const file = await openPlainFile(image);
	try {
		const {size} = await file.stat();
		if (size === 0) return true;
		const header = Buffer.alloc(HEADER_BYTES);
		const {bytesRead} = await file.read(header, 0, HEADER_BYTES, 0);
		if (bytesRead < HEADER_BYTES || header.readUInt32BE(0) !== MAGIC) return false;
		if (header.readUInt32BE(SNAPSHOTS) !== 0) return false;
		const bytes = header.readUInt32BE(L1_SIZE) * 8;
		const offset = Number(header.readBigUInt64BE(L1_OFFSET));
		if (bytes > MAX_TABLE_BYTES || !Number.isSafeInteger(offset)) {
			throw new QuiesceError('DAMAGED', `${image} is not a sound qcow2 image: its table cannot be meant`);
		}
		const table = Buffer.alloc(bytes);
		await file.read(table, 0, bytes, offset);
		return table.every(byte => byte === 0);
	} finally {
		await file.close();
	}
}
