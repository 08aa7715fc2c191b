import fc from 'fast-check';
import {expect, test} from 'vitest';
import {allRuns, type ClusterRun, writtenRuns} from '../../src/images/cluster-runs.ts';
import {CLUSTER_BYTES, clusterLength, clustersOf} from '../../src/images/hash-records.ts';
import {NbdClient} from '../../src/nbd/client.ts';
import {LAST, serve, statusChunk} from '../nbd/fake-server.ts';

const DIRTY = 'qemu:dirty-bitmap:writes';
const DEPTH = 'qemu:allocation-depth';
const UNIT = CLUSTER_BYTES / 4;

/** A server whose contexts have these flags for each quarter of a cluster, and which answers in parts. */
async function open(sizeBytes: number, contexts: Record<string, readonly number[]>, answerUnits: number) {
	const lists = Object.values(contexts);
	const socketPath = await serve(sizeBytes, ({cookie, offset, length}) => {
		const start = Number(offset);
		const chunks = lists.map((flags, id) => {
			const extents: [number, number][] = [];
			// Each context as far as it likes.
			const end = Math.min(start + length, start + (answerUnits + id) * UNIT, sizeBytes);
			for (let at = start; at < end;) {
				const next = Math.min((Math.floor(at / UNIT) + 1) * UNIT, end);
				extents.push([next - at, flags[Math.floor(at / UNIT)] ?? 0]);
				at = next;
			}
			return statusChunk(cookie, id === lists.length - 1 ? LAST : 0, id, extents);
		});
		return Buffer.concat(chunks);
	});
	return NbdClient.connect({unix: socketPath}, 'disk', {metaContexts: Object.keys(contexts)});
}

/** What becomes of each cluster. */
async function byCluster(runs: AsyncIterable<ClusterRun>, sizeBytes: number): Promise<string> {
	const clusters = Array.from({length: clustersOf(sizeBytes)}, () => '-');
	let reached = 0;
	for await (const {firstCluster, clusters: count, content} of runs) {
		expect(firstCluster).toBeGreaterThanOrEqual(reached);
		reached = firstCluster + count;
		clusters.fill(content === 'zero' ? '0' : 'D', firstCluster, reached);
	}
	expect(clusters.length).toBe(clustersOf(sizeBytes));
	return clusters.join('');
}

const layout = fc
	.tuple(fc.integer({min: 1, max: 10 * CLUSTER_BYTES}), fc.integer({min: 1, max: 50}))
	.chain(([sizeBytes, answerUnits]) => {
		const units = Math.ceil(sizeBytes / UNIT);
		const flags = (max: number) =>
			fc
				.array(fc.tuple(fc.integer({min: 1, max: 9}), fc.nat({max})), {minLength: units})
				.map(runs => runs.flatMap(([length, value]) => Array.from({length}, () => value)).slice(0, units));
		return fc.record({
			sizeBytes: fc.constant(sizeBytes),
			answerUnits: fc.constant(answerUnits),
			zero: flags(3),
			chosen: flags(3),
			context: fc.constantFrom(DIRTY, DEPTH),
		});
	});

test('what is told of parts of clusters is rounded outwards, wherever the answers end', async () => {
	await fc.assert(
		fc.asyncProperty(layout, async ({sizeBytes, answerUnits, zero, chosen, context}) => {
			const client = await open(sizeBytes, {'base:allocation': zero, [context]: chosen}, answerUnits);
			const clusters = Array.from({length: clustersOf(sizeBytes)}, (_, cluster) => {
				const from = (cluster * CLUSTER_BYTES) / UNIT;
				const to = from + Math.ceil(clusterLength(cluster, sizeBytes) / UNIT);
				const isZero = zero.slice(from, to).every(value => (value & 2) !== 0);
				const isWanted = chosen.slice(from, to).some(value => (context === DEPTH ? value === 1 : (value & 1) !== 0));
				return {content: isZero ? '0' : 'D', written: isWanted};
			});
			const written = clusters.map(({content, written}) => (written ? content : '-')).join('');
			expect(await byCluster(writtenRuns(client, context), sizeBytes)).toBe(written);
			expect(await byCluster(allRuns(client), sizeBytes)).toBe(clusters.map(({content}) => content).join(''));
			await client.close();
		}),
	);
});
