import type {NbdClient} from '../nbd/client.ts';
import {STATE_DIRTY, STATE_ZERO, type StatusExtent} from '../nbd/protocol.ts';
import {CLUSTER_BYTES, clustersOf} from './hash-records.ts';

/** The context in which every export tells what is zero without a look at the data. */
export const ZERO_CONTEXT = 'base:allocation';
/** The context in which an export of ours tells which image of a chain stores what: 1 is the topmost, 0 none. */
export const DEPTH_CONTEXT = 'qemu:allocation-depth';

/** Clusters of an export that lie side by side. What is `data` may be zeroes too. */
export interface ClusterRun {
	readonly firstCluster: number;
	readonly clusters: number;
	readonly content: 'data' | 'zero';
}

/** A part of an export, of any length, in which nothing changes. */
export interface Segment {
	readonly offset: number;
	readonly length: number;
	readonly state: 'wanted' | 'unwanted';
	readonly content: 'data' | 'zero';
}

/** All clusters of an export, in order. The client has agreed on {@link ZERO_CONTEXT}. */
export function allRuns(client: NbdClient): AsyncGenerator<ClusterRun> {
	return inClusters(segmentsOf(client), client.sizeBytes);
}

/**
 * The clusters that are at least in part dirty in the bitmap `qemu:dirty-bitmap:NAME`, or stored in the topmost image by
 * {@link DEPTH_CONTEXT}, in order. The client has agreed on this context and on {@link ZERO_CONTEXT}.
 */
export function writtenRuns(client: NbdClient, context: string): AsyncGenerator<ClusterRun> {
	return inClusters(segmentsOf(client, context), client.sizeBytes);
}

async function* segmentsOf(client: NbdClient, context?: string): AsyncGenerator<Segment> {
	for (let offset = 0; offset < client.sizeBytes;) {
		const status = await client.blockStatus(offset, client.sizeBytes - offset);
		const zero = status.get(ZERO_CONTEXT);
		const chosen = context === undefined ? zero : status.get(context);
		if (!zero || !chosen) throw new RangeError(`the client did not agree on ${context ?? ZERO_CONTEXT}`);
		for (const [length, zeroFlags, chosenFlags] of together(zero, chosen)) {
			const content = (zeroFlags & STATE_ZERO) === 0 ? 'data' : 'zero';
			const wanted =
				context === undefined || (context === DEPTH_CONTEXT ? chosenFlags === 1 : (chosenFlags & STATE_DIRTY) !== 0);
			yield {offset, length, state: wanted ? 'wanted' : 'unwanted', content};
			offset += length;
		}
	}
}

/** As far as both of two lists reach, in parts in which neither changes: the length of each, and its flags in both. */
function* together(one: readonly StatusExtent[], other: readonly StatusExtent[]): Generator<[number, number, number]> {
	const ones = one.values();
	const others = other.values();
	let left = ones.next();
	let right = others.next();
	let leftDone = 0;
	let rightDone = 0;
	while (!left.done && !right.done) {
		const length = Math.min(left.value.length - leftDone, right.value.length - rightDone);
		yield [length, left.value.flags, right.value.flags];
		leftDone += length;
		rightDone += length;
		if (leftDone === left.value.length) {
			left = ones.next();
			leftDone = 0;
		}
		if (rightDone === right.value.length) {
			right = others.next();
			rightDone = 0;
		}
	}
}

/**
 * Rounds outwards: a cluster is wanted where a part of it is, and zero only as a whole, since what a file system or another
 * image tells may be finer than clusters.
 */
export async function* inClusters(segments: AsyncIterable<Segment>, sizeBytes: number): AsyncGenerator<ClusterRun> {
	let open = {wanted: false, zero: true};
	for await (const {offset, length, state, content} of segments) {
		const end = offset + length;
		for (let at = offset; at < end;) {
			const cluster = Math.floor(at / CLUSTER_BYTES);
			const clusterEnd = Math.min((cluster + 1) * CLUSTER_BYTES, sizeBytes);
			if (at === cluster * CLUSTER_BYTES && end >= clusterEnd) {
				const clusters = (end === sizeBytes ? clustersOf(sizeBytes) : Math.floor(end / CLUSTER_BYTES)) - cluster;
				if (state === 'wanted') yield {firstCluster: cluster, clusters, content};
				at = Math.min((cluster + clusters) * CLUSTER_BYTES, sizeBytes);
				continue;
			}
			open = {wanted: open.wanted || state === 'wanted', zero: open.zero && content === 'zero'};
			at = Math.min(end, clusterEnd);
			if (at < clusterEnd) continue;
			if (open.wanted) yield {firstCluster: cluster, clusters: 1, content: open.zero ? 'zero' : 'data'};
			open = {wanted: false, zero: true};
		}
	}
}
