import {QuiesceError} from '../errors.ts';

/** What one hash is of. The last cluster of a disk may be shorter. */
export const CLUSTER_BYTES = 64 * 1024;
export const HASH_BYTES = 32;
export const HEADER_BYTES = 16;
export const RECORD_BYTES = 48;

const MAGIC = 'QSCHASH1';
const ZERO_MARK = Buffer.alloc(HASH_BYTES);

/**
 * What some clusters of a disk hold, one after the other: each of them reads as zeroes, or has this SHA-256.
 *
 * A file of records begins with 16 bytes: `QSCHASH1` in ASCII, the size of a cluster in bytes as a 32-bit number (65536),
 * 4 zero bytes. Records of 48 bytes follow up to the end: the index of the first cluster and the count of clusters as
 * 64-bit numbers, and the SHA-256 of the content of one cluster, which is that of each. 32 zero bytes instead of a hash say
 * that the clusters read as zeroes, which is never told by a hash. All numbers are little-endian. The last cluster of a disk
 * whose size is no multiple of the cluster's is hashed over the bytes that there are. Where records overlap the later one
 * holds. Clusters that no record names are not stored in the image: they are those of its backing file, or read as zeroes if
 * it has none.
 */
export interface HashRecord {
	readonly firstCluster: number;
	readonly clusters: number;
	readonly content: Buffer | 'zero';
}

/** How many clusters a disk has, with the last one that may be shorter. */
export function clustersOf(sizeBytes: number): number {
	return Math.ceil(sizeBytes / CLUSTER_BYTES);
}

/** Of a cluster, in bytes: the last may be shorter. */
export function clusterLength(cluster: number, sizeBytes: number): number {
	return Math.min(CLUSTER_BYTES, sizeBytes - cluster * CLUSTER_BYTES);
}

/** A file of records. */
export function encodeRecords(records: Iterable<HashRecord>): Buffer {
	return Buffer.concat([encodeHeader(), ...Iterator.from(records).map(encodeRecord)]);
}

/** The records of a file, for a disk of this size. Throws `DAMAGED`, at once or while they are taken, if it is malformed. */
export function decodeRecords(bytes: Buffer, sizeBytes: number): Generator<HashRecord> {
	checkHeader(bytes);
	return decodeBody(bytes.subarray(HEADER_BYTES), sizeBytes);
}

export function encodeHeader(): Buffer {
	const bytes = Buffer.alloc(HEADER_BYTES);
	bytes.write(MAGIC, 'latin1');
	bytes.writeUInt32LE(CLUSTER_BYTES, 8);
	return bytes;
}

export function checkHeader(bytes: Buffer): void {
	if (!bytes.subarray(0, HEADER_BYTES).equals(encodeHeader())) throw damaged('it does not begin as such a file does');
}

export function encodeRecord({firstCluster, clusters, content}: HashRecord): Buffer {
	const bytes = Buffer.allocUnsafe(RECORD_BYTES);
	bytes.writeBigUInt64LE(BigInt(firstCluster), 0);
	bytes.writeBigUInt64LE(BigInt(clusters), 8);
	bytes.set(content === 'zero' ? ZERO_MARK : content, 16);
	return bytes;
}

/** Records without the header. Their hashes are parts of `bytes`. */
export function* decodeBody(bytes: Buffer, sizeBytes: number): Generator<HashRecord> {
	if (bytes.length % RECORD_BYTES !== 0) throw damaged('it ends in the middle of a record');
	for (let at = 0; at < bytes.length; at += RECORD_BYTES) {
		const firstCluster = decodeNumber(bytes, at);
		const clusters = decodeNumber(bytes, at + 8);
		if (clusters === 0) throw damaged('a record is of no clusters');
		if (firstCluster + clusters > clustersOf(sizeBytes)) throw damaged('a record is of clusters that the disk lacks');
		const hash = bytes.subarray(at + 16, at + RECORD_BYTES);
		yield {firstCluster, clusters, content: hash.equals(ZERO_MARK) ? 'zero' : hash};
	}
}

/** Inexact beyond 2^53, which no disk has. */
function decodeNumber(bytes: Buffer, at: number): number {
	return bytes.readUInt32LE(at + 4) * 0x1_0000_0000 + bytes.readUInt32LE(at);
}

function damaged(why: string): QuiesceError {
	return new QuiesceError('DAMAGED', `not a file of content hashes: ${why}`);
}
