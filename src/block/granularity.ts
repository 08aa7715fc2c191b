/** Copies are made of clusters of this size, so a finer bitmap would save nothing. */
export const LEAST_GRANULARITY = 64 * 1024;
/** QEMU's own limit (block/qcow2-bitmap.c). */
export const GREATEST_GRANULARITY = 2 ** 31;

const MOST_BITS = 2 ** 26;

/** Bytes for one bit of a disk's bitmap: the finest that is of use, and for very large disks what takes 8 MiB of memory. */
export function granularityFor(diskBytes: number): number {
	let granularity = LEAST_GRANULARITY;
	while (granularity < GREATEST_GRANULARITY && diskBytes / granularity > MOST_BITS) granularity *= 2;
	return granularity;
}
