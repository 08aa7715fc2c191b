import {hash} from 'node:crypto';
import {QuiesceError} from '../errors.ts';
import type {NbdClient} from '../nbd/client.ts';
import {NbdRequestError} from '../nbd/errors.ts';
import {allRuns, type ClusterRun, writtenRuns} from './cluster-runs.ts';
import type {ContentHashes} from './content-hashes.ts';
import {CLUSTER_BYTES, clusterLength, type HashRecord} from './hash-records.ts';
import {RunMerger} from './merge-runs.ts';
import {readAhead} from './read-ahead.ts';

const EIO = 5;
const ZERO_HASH = sha256(Buffer.alloc(CLUSTER_BYTES));

export interface ContentProgress {
	/** Zeroes that the server knows of are not read. */
	readonly bytesRead: number;
	/** In the disk: all before it is done. */
	readonly positionBytes: number;
}

export interface HashContentOptions {
	/** What tells the clusters that are stored: see {@link writtenRuns}. */
	readonly context: string;
	/** An image without a backing file need not say what is zero. */
	readonly zeroes: 'record' | 'omit';
	/** Often: after each read. */
	readonly onProgress?: ((progress: ContentProgress) => void) | undefined;
}

/**
 * What an image stores, as it reads through an export which shows all of the content, with the images below. The client has
 * agreed on `base:allocation` and on the context; nobody writes meanwhile. To cancel, abort the client's signal.
 */
export async function* hashContent(
	client: NbdClient,
	{context, zeroes, onProgress}: HashContentOptions,
): AsyncGenerator<HashRecord> {
	const merger = new RunMerger();
	const read = (offset: number, into: Buffer): Promise<Buffer> => client.read(offset, into.length, into);
	let bytesRead = 0;
	for await (const part of readAhead(client, writtenRuns(client, context), read)) {
		const {firstCluster, clusters} = part.run;
		const zero: HashRecord = {firstCluster, clusters, content: 'zero'};
		for (const record of part.content === 'zero' ? [zero] : hashClusters(firstCluster, part.bytes)) {
			if (record.content === 'zero' && zeroes === 'omit') continue;
			const complete = merger.add(record);
			if (complete) yield complete;
		}
		if (part.content === 'data') bytesRead += part.bytes.length;
		onProgress?.({bytesRead, positionBytes: positionAfter(client, firstCluster + clusters)});
	}
	const last = merger.end();
	if (last) yield last;
}

/** Clusters side by side that are not what they should be. */
export interface Mismatch {
	readonly firstCluster: number;
	readonly clusters: number;
	/** `unreadable`: QEMU can make nothing of what is stored, or the storage fails. */
	readonly why: 'differs' | 'unreadable';
}

export interface ContentComparison {
	/** The first of them, in order. */
	readonly mismatches: readonly Mismatch[];
	readonly mismatchedClusters: number;
	readonly bytesRead: number;
}

export interface CompareContentOptions {
	/** `expected`: only the clusters of which something is expected; the rest may be anything. */
	readonly only?: 'expected' | undefined;
	readonly maxMismatches?: number;
	readonly onProgress?: ((progress: ContentProgress) => void) | undefined;
}

/**
 * Reads all of an export and compares it with what a chain should hold. The client has agreed on `base:allocation`. To
 * cancel, abort the client's signal.
 */
export async function compareContent(
	client: NbdClient,
	expected: ContentHashes,
	{only, maxMismatches = 10, onProgress}: CompareContentOptions = {},
): Promise<ContentComparison> {
	if (client.sizeBytes !== expected.sizeBytes) {
		throw new QuiesceError('DAMAGED', `the image has ${client.sizeBytes} bytes instead of ${expected.sizeBytes}`);
	}
	const mismatches: Mismatch[] = [];
	let mismatchedClusters = 0;
	const report = ({firstCluster, clusters}: {firstCluster: number; clusters: number}, why: Mismatch['why']): void => {
		mismatchedClusters += clusters;
		const last = mismatches.at(-1);
		if (last?.why === why && last.firstCluster + last.clusters === firstCluster) {
			mismatches[mismatches.length - 1] = {...last, clusters: last.clusters + clusters};
		} else if (mismatches.length < maxMismatches) {
			mismatches.push({firstCluster, clusters, why});
		}
	};
	const check = (firstCluster: number, bytes: Buffer): void => {
		for (const record of hashClusters(firstCluster, bytes)) {
			if (!same(record.content, expected.hashOf(record.firstCluster))) report(record, 'differs');
		}
	};
	let bytesRead = 0;
	const runs = only === 'expected' ? expectedOf(allRuns(client), expected) : allRuns(client);
	for await (const part of readAhead(client, runs, (offset, into) => readIfSound(client, offset, into))) {
		const {firstCluster, clusters} = part.run;
		if (part.content === 'zero') {
			for (const record of expected.hashed(firstCluster, clusters)) report(record, 'differs');
		} else if (part.bytes) {
			check(firstCluster, part.bytes);
			bytesRead += part.bytes.length;
		} else {
			for (let cluster = firstCluster; cluster < firstCluster + clusters; cluster++) {
				const into = Buffer.allocUnsafe(clusterLength(cluster, client.sizeBytes));
				const bytes = await readIfSound(client, cluster * CLUSTER_BYTES, into);
				if (bytes) check(cluster, bytes);
				else report({firstCluster: cluster, clusters: 1}, 'unreadable');
				bytesRead += bytes?.length ?? 0;
			}
		}
		onProgress?.({bytesRead, positionBytes: positionAfter(client, firstCluster + clusters)});
	}
	return {mismatches, mismatchedClusters, bytesRead};
}

async function* expectedOf(runs: AsyncIterable<ClusterRun>, expected: ContentHashes): AsyncGenerator<ClusterRun> {
	for await (const {firstCluster, clusters, content} of runs) {
		const end = firstCluster + clusters;
		let from = firstCluster;
		for (let cluster = firstCluster; cluster <= end; cluster++) {
			if (cluster < end && expected.contentOf(cluster) !== undefined) continue;
			if (cluster > from) yield {firstCluster: from, clusters: cluster - from, content};
			from = cluster + 1;
		}
	}
}

async function readIfSound(client: NbdClient, offset: number, into: Buffer): Promise<Buffer | undefined> {
	try {
		return await client.read(offset, into.length, into);
	} catch (error) {
		if (error instanceof NbdRequestError && error.errno === EIO) return undefined;
		throw error;
	}
}

/** A record for each cluster; only the last may be shorter. */
function* hashClusters(firstCluster: number, bytes: Buffer): Generator<HashRecord> {
	for (let at = 0; at < bytes.length; at += CLUSTER_BYTES) {
		const cluster = bytes.subarray(at, at + CLUSTER_BYTES);
		yield {firstCluster: firstCluster + at / CLUSTER_BYTES, clusters: 1, content: contentOf(cluster)};
	}
}

function contentOf(cluster: Buffer): Buffer | 'zero' {
	const found = sha256(cluster);
	const zero = cluster.length === CLUSTER_BYTES ? ZERO_HASH : sha256(Buffer.alloc(cluster.length));
	return found.equals(zero) ? 'zero' : found;
}

function same(one: Buffer | 'zero', other: Buffer | 'zero'): boolean {
	return one === 'zero' || other === 'zero' ? one === other : one.equals(other);
}

function sha256(bytes: Buffer): Buffer {
	return hash('sha256', bytes, 'buffer');
}

function positionAfter({sizeBytes}: NbdClient, clusters: number): number {
	return Math.min(clusters * CLUSTER_BYTES, sizeBytes);
}
