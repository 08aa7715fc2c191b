import fc from 'fast-check';
import {expect, test} from 'vitest';
import {FULL_MASK, BLOCK_BYTES, CLUSTER_BYTES} from '../../src/vma/geometry.ts';
import {blocksIn, blocksWithin, clusterLength, clustersOf} from '../../src/vma/geometry.ts';
import {checksumOf, expand, maskOf, storedParts} from '../../src/vma/blocks.ts';
import type {VmaEntry} from '../../src/vma/extent.ts';
import {
	archiveOf,
	areSame,
	clustersInOrder,
	contentsOf,
	extent,
	headerOf,
	inPieces,
	readBack,
	seeded,
	someContent,
	written,
} from './archives.ts';
import {VmaIndexReader} from '../../src/vma/index-reader.ts';
import {checkedAgainst, readVma} from '../../src/vma/reader.ts';

const sectors = fc.integer({min: 1, max: 4 * 128});

function shuffled<Value>(values: readonly Value[], seed: number): Value[] {
	const random = seeded(seed);
	const result = [...values];
	for (let at = result.length - 1; at > 0; at--) {
		const other = random(at + 1);
		[result[at], result[other]] = [result[other]!, result[at]!];
	}
	return result;
}

test('disks of any sizes, written in any order and read in any pieces, read back the same', async () => {
	await fc.assert(
		fc.asyncProperty(
			fc.array(sectors, {minLength: 1, maxLength: 5}),
			fc.nat(),
			fc.integer({min: 1, max: 200_000}),
			async (sizes, seed, pieceBytes) => {
				const header = headerOf(...sizes.map(size => size * 512));
				const contents = new Map(
					header.devices.map(({name, sizeBytes, id}) => [name, someContent(sizeBytes, seed + id)]),
				);
				const {archive, index} = await written(header, contents, shuffled(clustersInOrder(header), seed));
				const pieces = Math.max(pieceBytes, archive.length / 2000);
				const events = checkedAgainst(
					await VmaIndexReader.open(inPieces(index, pieceBytes)),
					readVma(inPieces(archive, Math.ceil(pieces))),
				);
				const found = await contentsOf(events);
				expect(found.header).toEqual(header);
				expect(areSame(found.contents, contents)).toBe(true);
			},
		),
		{numRuns: 100},
	);
});

test('clusters with any masks, in extents of any lengths with any devices, read back as they are', async () => {
	const extents = fc.integer({min: 1, max: 59});
	await fc.assert(
		fc.asyncProperty(
			fc.array(sectors, {minLength: 1, maxLength: 3}),
			fc.array(fc.integer({min: 0, max: FULL_MASK}), {minLength: 1}),
			extents,
			fc.nat(),
			async (sizes, masks, perExtent, seed) => {
				const header = headerOf(...sizes.map(size => size * 512));
				const entries = shuffled(clustersInOrder(header), seed).map(({device, cluster}, at) => {
					const within = blocksWithin(clusterLength(cluster, device.sizeBytes));
					return {deviceId: device.id, cluster, mask: masks[at % masks.length]! & within, fill: 1 + (at % 255)};
				});
				const parts: Buffer[] = [];
				for (let at = 0; at < entries.length; at += perExtent) parts.push(extent(entries.slice(at, at + perExtent)));
				const {contents} = await readBack(archiveOf(header, ...parts), 10_000);
				for (const entry of entries) {
					const {name, sizeBytes} = header.devices[entry.deviceId - 1]!;
					const start = entry.cluster * CLUSTER_BYTES;
					const found = contents.get(name)!.subarray(start, Math.min(start + CLUSTER_BYTES, sizeBytes));
					expect(found.equals(plain(entry).subarray(0, found.length))).toBe(true);
				}
			},
		),
		{numRuns: 100},
	);
});

function plain({mask, fill}: VmaEntry & {readonly fill: number}): Buffer {
	const bytes = Buffer.alloc(CLUSTER_BYTES);
	for (let block = 0; block < 16; block++) {
		if ((mask & (1 << block)) !== 0) bytes.fill(fill, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
	}
	return bytes;
}

test('an archive is read byte by byte as well', async () => {
	const contents = new Map([['drive-scsi0', someContent(CLUSTER_BYTES + 512, 1)]]);
	const {archive} = await written(headerOf(CLUSTER_BYTES + 512), contents);
	expect(areSame((await readBack(archive, 1)).contents, contents)).toBe(true);
});

test('the blocks that are not zero are told by a mask, and put back from it', () => {
	fc.assert(
		fc.property(fc.integer({min: 1, max: 128}), fc.array(fc.nat({max: 65_535}), {maxLength: 20}), (count, places) => {
			const cluster = Buffer.alloc(count * 512);
			for (const place of places) cluster[place % cluster.length] = 1;
			const expected = new Set(places.map(place => Math.floor((place % cluster.length) / BLOCK_BYTES)));
			const mask = maskOf(cluster);
			for (let block = 0; block < 16; block++) expect((mask & (1 << block)) !== 0).toBe(expected.has(block));
			const parts = [...storedParts(cluster, mask)];
			const stored = Buffer.concat(parts);
			expect(stored.length).toBe(blocksIn(mask) * BLOCK_BYTES);
			expect(checksumOf(parts)).toBe(checksumOf([stored]));
			expect(expand(stored, mask, cluster.length).equals(cluster)).toBe(true);
		}),
		{numRuns: 200},
	);
});

test('blocks of every mask are counted', () => {
	for (let mask = 0; mask <= FULL_MASK; mask++) {
		if (blocksIn(mask) !== mask.toString(2).replaceAll('0', '').length) expect(mask).toBeUndefined();
	}
	expect(clustersOf(CLUSTER_BYTES + 1)).toBe(2);
	expect([1, 4096, 4097, CLUSTER_BYTES].map(blocksWithin)).toEqual([1, 1, 3, FULL_MASK]);
});
