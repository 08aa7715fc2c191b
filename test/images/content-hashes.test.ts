import {createHash} from 'node:crypto';
import fc from 'fast-check';
import {expect, test} from 'vitest';
import {ContentHashes} from '../../src/images/content-hashes.ts';
import {CLUSTER_BYTES, decodeRecords, encodeRecords, type HashRecord} from '../../src/images/hash-records.ts';

const CLUSTERS = 5000;
const SIZE = CLUSTERS * CLUSTER_BYTES - 512;
const TIB = 2 ** 40;

const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest();
const contents = ['zero', hashOf('a'), hashOf('b'), hashOf('c')] as const;

const record = fc
	.tuple(fc.nat({max: CLUSTERS - 1}), fc.oneof(fc.nat({max: 3}), fc.nat({max: CLUSTERS})), fc.constantFrom(...contents))
	.map(([firstCluster, length, content]): HashRecord => {
		return {firstCluster, clusters: Math.max(1, Math.min(length, CLUSTERS - firstCluster)), content};
	});
const records = fc.array(record, {maxLength: 30});

/** The same, with an array of all clusters. */
function plainly(...images: readonly (readonly HashRecord[])[]): (Buffer | 'zero' | undefined)[] {
	const clusters = Array.from<Buffer | 'zero' | undefined>({length: CLUSTERS});
	for (const {firstCluster, clusters: count, content} of images.flat()) {
		clusters.fill(content, firstCluster, firstCluster + count);
	}
	return clusters;
}

test('records are what was encoded, and the format is the documented one', () => {
	fc.assert(
		fc.property(records, list => {
			expect([...decodeRecords(encodeRecords(list), SIZE)]).toEqual(list);
		}),
	);
	const encoded = encodeRecords([
		{firstCluster: 1, clusters: 2, content: hashOf('a')},
		{firstCluster: 0x1_0000_0000, clusters: 0x2_0000_0003, content: 'zero'},
	]);
	expect(encoded.toString('latin1', 0, 8)).toBe('QSCHASH1');
	expect(encoded.toString('hex', 8)).toBe(
		[
			...['00000100', '00000000'],
			...['0100000000000000', '0200000000000000', hashOf('a').toString('hex')],
			...['0000000001000000', '0300000002000000', '00'.repeat(32)],
		].join(''),
	);
});

test.each([
	['is empty', () => Buffer.alloc(0)],
	['has half a header', () => encodeRecords([]).subarray(0, 15)],
	['begins otherwise', () => change(0, 1)],
	['has another cluster size', () => change(10, 2)],
	['has something in what is kept free', () => change(12, 1)],
	['ends in the middle of a record', () => encodeRecords([sample]).subarray(0, -1)],
	['goes beyond the middle of a record', () => Buffer.concat([encodeRecords([sample]), Buffer.alloc(1)])],
	['has a record of nothing', () => change(24, sample.clusters)],
	['has a cluster beyond the end', () => encodeRecords([{...sample, clusters: CLUSTERS + 1 - sample.firstCluster}])],
	['has a record far beyond the end', () => change(23, 0xff)],
	['has more clusters than numbers', () => change(31, 0xff)],
])('a file that %s is damaged', (_what, make) => {
	expect(() => [...decodeRecords(make(), SIZE)]).toThrow(expect.objectContaining({code: 'DAMAGED'}) as Error);
});

const sample: HashRecord = {firstCluster: 7, clusters: 3, content: hashOf('a')};

function change(at: number, mask: number): Buffer {
	const bytes = encodeRecords([sample]);
	bytes.writeUInt8(bytes.readUInt8(at) ^ mask, at);
	return bytes;
}

test('what is composed is what the last image says of each cluster', () => {
	fc.assert(
		fc.property(records, records, (base, tip) => {
			const composed = ContentHashes.empty(SIZE).apply(base).apply(tip);
			const expected = plainly(base, tip);
			for (const [cluster, content] of expected.entries()) {
				if (composed.contentOf(cluster) !== content) expect(composed.contentOf(cluster)).toEqual(content);
				if (content === undefined) expect(composed.hashOf(cluster)).toBe('zero');
			}
		}),
		{numRuns: 50},
	);
});

test('the records of what is composed say the same in one image, in order, without a record that could be part of another', () => {
	fc.assert(
		fc.property(records, records, fc.constantFrom('record', 'omit'), (base, tip, zeroes) => {
			const merged = [...ContentHashes.empty(SIZE).apply(base).apply(tip).records({zeroes})];
			const expected = plainly(base, tip).map(content =>
				zeroes === 'omit' && content === 'zero' ? undefined : content,
			);
			expect(plainly(merged)).toEqual(expected);
			for (const [index, {firstCluster, clusters, content}] of merged.entries()) {
				const next = merged[index + 1];
				if (!next) continue;
				expect(next.firstCluster).toBeGreaterThanOrEqual(firstCluster + clusters);
				if (next.firstCluster === firstCluster + clusters) expect(next.content).not.toEqual(content);
			}
		}),
		{numRuns: 50},
	);
});

test('what is hashed within a range is found', () => {
	fc.assert(
		fc.property(records, fc.nat({max: CLUSTERS - 1}), fc.nat({max: CLUSTERS}), (list, first, length) => {
			const end = Math.min(first + length, CLUSTERS);
			const found = [
				...ContentHashes.empty(SIZE)
					.apply(list)
					.hashed(first, end - first),
			];
			const wanted = plainly(list).map((content, at) =>
				at < first || at >= end || content === 'zero' ? undefined : content,
			);
			expect(plainly(found)).toEqual(wanted);
		}),
		{numRuns: 50},
	);
});

test('long runs of a large disk take next to no memory or time', () => {
	const clusters = TIB / CLUSTER_BYTES;
	const started = performance.now();
	const before = process.memoryUsage();
	const hashes = ContentHashes.empty(TIB);
	for (let round = 0; round < 10; round++) {
		hashes.apply([
			{firstCluster: 0, clusters, content: hashOf(String(round))},
			{firstCluster: 3, clusters: clusters - 3, content: 'zero'},
		]);
	}
	const after = process.memoryUsage();
	expect(hashes.hashOf(clusters - 1)).toBe('zero');
	expect(hashes.hashOf(2)).toEqual(hashOf('9'));
	expect([...hashes.records()].map(({clusters: count}) => count)).toEqual([3, clusters - 3]);
	expect(after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers).toBeLessThan(64 * 1024 * 1024);
	expect(performance.now() - started).toBeLessThan(5_000);
});

test('the hash of a record may go with the file that it was read from', () => {
	const bytes = encodeRecords([
		{firstCluster: 0, clusters: 2000, content: hashOf('a')},
		{firstCluster: 2500, clusters: 1, content: hashOf('b')},
	]);
	const hashes = ContentHashes.empty(SIZE).apply(decodeRecords(bytes, SIZE));
	bytes.fill(0);
	expect(hashes.hashOf(5)).toEqual(hashOf('a'));
	expect(hashes.hashOf(1500)).toEqual(hashOf('a'));
	expect(hashes.hashOf(2500)).toEqual(hashOf('b'));
});
