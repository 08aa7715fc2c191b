import {crc32} from 'node:zlib';
import {BLOCK_BYTES, BLOCKS_PER_CLUSTER, FULL_MASK} from './geometry.ts';

const ZEROES = Buffer.alloc(BLOCK_BYTES);

/**
 * Which blocks of a cluster are not all zeroes. Buffer.compare is as fast as memory is: tens of GiB/s, where loops over
 * typed arrays reach a few; the look at the first byte spares most of the calls.
 */
export function maskOf(cluster: Buffer): number {
	let mask = 0;
	for (let at = 0, bit = 1; at < cluster.length; at += BLOCK_BYTES, bit <<= 1) {
		const end = Math.min(at + BLOCK_BYTES, cluster.length);
		if (cluster[at] !== 0 || ZEROES.compare(cluster, at, end, 0, end - at) !== 0) mask |= bit;
	}
	return mask;
}

/** What an archive stores of a cluster: parts of it, and zeroes that fill up the last block. */
export function* storedParts(cluster: Buffer, mask: number): Generator<Buffer, void, void> {
	if (mask === FULL_MASK && cluster.length === BLOCKS_PER_CLUSTER * BLOCK_BYTES) {
		yield cluster;
		return;
	}
	for (let block = 0; mask >>> block !== 0; block++) {
		const first = block;
		while (((mask >>> block) & 1) === 1) block++;
		if (block === first) continue;
		const end = block * BLOCK_BYTES;
		yield cluster.subarray(first * BLOCK_BYTES, end);
		if (end > cluster.length) yield ZEROES.subarray(0, end - cluster.length);
	}
}

/** The other way round: the cluster, `length` bytes of it. Is `stored` itself where nothing was left out. */
export function expand(stored: Buffer, mask: number, length: number): Buffer {
	if (mask === FULL_MASK || stored.length >= length) return stored.subarray(0, length);
	const cluster = Buffer.alloc(BLOCKS_PER_CLUSTER * BLOCK_BYTES);
	let at = 0;
	for (let block = 0; block < BLOCKS_PER_CLUSTER; block++) {
		if (((mask >>> block) & 1) === 0) continue;
		cluster.set(stored.subarray(at, at + BLOCK_BYTES), block * BLOCK_BYTES);
		at += BLOCK_BYTES;
	}
	return cluster.subarray(0, length);
}

/** The CRC-32 of what is stored of a cluster, in its parts. It is 0 where nothing is. */
export function checksumOf(parts: Iterable<Buffer>): number {
	let checksum = 0;
	for (const part of parts) checksum = crc32(part, checksum);
	return checksum;
}
