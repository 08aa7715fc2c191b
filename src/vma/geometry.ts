/** What a VMA archive is measured in (docs/vma-format.md). All counts are of bytes where nothing else is said. */

export const BLOCK_BYTES = 4096;
export const BLOCKS_PER_CLUSTER = 16;
export const CLUSTER_BYTES = BLOCK_BYTES * BLOCKS_PER_CLUSTER;
/** All blocks of a cluster. Bit 0 is the first one. */
export const FULL_MASK = 0xffff;
/** Sizes of devices are multiples of it: other readers count sectors. */
export const SECTOR_BYTES = 512;
/** Cluster numbers have 32 bits. */
export const MAX_DEVICE_BYTES = 2 ** 32 * CLUSTER_BYTES;
/** 0 means no device in an extent, and 255 is reserved. */
export const MAX_DEVICE_ID = 254;
/** The name of a stream of RAM: its clusters come in order, and their number is not told. */
export const VMSTATE = 'vmstate';

export function clustersOf(sizeBytes: number): number {
	return Math.ceil(sizeBytes / CLUSTER_BYTES);
}

/** Of a cluster of a device: the last may be shorter. */
export function clusterLength(cluster: number, sizeBytes: number): number {
	return Math.min(CLUSTER_BYTES, sizeBytes - cluster * CLUSTER_BYTES);
}

/** How many blocks a mask stores. */
export function blocksIn(mask: number): number {
	let pairs = mask - ((mask >>> 1) & 0x5555);
	pairs = (pairs & 0x3333) + ((pairs >>> 2) & 0x3333);
	const bytes = (pairs + (pairs >>> 4)) & 0x0f0f;
	return (bytes + (bytes >>> 8)) & 0x1f;
}

/** Which blocks of a cluster are in the device, be it in part. */
export function blocksWithin(lengthBytes: number): number {
	return FULL_MASK >>> (BLOCKS_PER_CLUSTER - Math.ceil(lengthBytes / BLOCK_BYTES));
}
