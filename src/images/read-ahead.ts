import type {NbdClient} from '../nbd/client.ts';
import type {ClusterRun} from './cluster-runs.ts';
import {CLUSTER_BYTES} from './hash-records.ts';

const READ_CLUSTERS = 4;
const IN_FLIGHT = 16;

/** A part of a run, and what was read of it; zeroes are not read. The bytes are valid until the next is asked for. */
export type ReadRun<Bytes> =
	| {readonly run: ClusterRun; readonly content: 'zero'}
	| {readonly run: ClusterRun; readonly content: 'data'; readonly bytes: Bytes};

/**
 * Reads runs in their order, some parts ahead of what is taken, in memory that is used over and over. `read` is the client's
 * own, or one that makes something else of an error.
 */
export async function* readAhead<Bytes>(
	client: NbdClient,
	runs: AsyncIterable<ClusterRun>,
	read: (offset: number, into: Buffer) => Promise<Bytes>,
): AsyncGenerator<ReadRun<Bytes>> {
	const free: Buffer[] = [];
	const ahead: {run: ClusterRun; buffer?: Buffer; bytes?: Promise<Bytes>}[] = [];
	const start = (run: ClusterRun): void => {
		if (run.content === 'zero') {
			ahead.push({run});
			return;
		}
		const offset = run.firstCluster * CLUSTER_BYTES;
		const buffer = free.pop() ?? Buffer.allocUnsafeSlow(READ_CLUSTERS * CLUSTER_BYTES);
		const length = Math.min(run.clusters * CLUSTER_BYTES, client.sizeBytes - offset);
		const bytes = read(offset, buffer.subarray(0, length));
		// It is awaited in its turn, if it comes to that.
		bytes.catch(() => undefined);
		ahead.push({run, buffer, bytes});
	};
	const untilThereAre = async function* (count: number): AsyncGenerator<ReadRun<Bytes>> {
		for (let next; ahead.length > count && (next = ahead.shift());) {
			if (next.bytes) yield {run: next.run, content: 'data', bytes: await next.bytes};
			else yield {run: next.run, content: 'zero'};
			if (next.buffer) free.push(next.buffer);
		}
	};
	for await (const run of inParts(runs)) {
		start(run);
		yield* untilThereAre(IN_FLIGHT - 1);
	}
	yield* untilThereAre(0);
}

async function* inParts(runs: AsyncIterable<ClusterRun>): AsyncGenerator<ClusterRun> {
	for await (const run of runs) {
		if (run.content === 'zero') {
			yield run;
			continue;
		}
		const end = run.firstCluster + run.clusters;
		for (let at = run.firstCluster; at < end; at += READ_CLUSTERS) {
			yield {firstCluster: at, clusters: Math.min(READ_CLUSTERS, end - at), content: 'data'};
		}
	}
}
