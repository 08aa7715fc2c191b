import {expect, test} from 'vitest';
import {VmaDamagedError, VmaIndexError} from '../../src/vma/errors.ts';
import {VmaDecoder, type VmaEvent} from '../../src/vma/decoder.ts';
import {BLOCK_BYTES, CLUSTER_BYTES} from '../../src/vma/geometry.ts';
import {VmaIndexReader} from '../../src/vma/index-reader.ts';
import {checkedAgainst} from '../../src/vma/reader.ts';
import {
	type Archive,
	areSame,
	clustersInOrder,
	type Contents,
	contentsOf,
	headerOf,
	inPieces,
	seeded,
	written,
} from './archives.ts';

const header = headerOf(2 * CLUSTER_BYTES + BLOCK_BYTES + 512, CLUSTER_BYTES);
/** Two blocks a cluster, so that there is not much besides the headers. */
const contents = new Map(
	header.devices.map(({name, sizeBytes, id}) => {
		const content = Buffer.alloc(sizeBytes);
		for (let at = 0; at < sizeBytes; at += CLUSTER_BYTES) {
			content
				.fill(id, at, at + 100)
				.fill(0xff, Math.min(at + 7 * BLOCK_BYTES, sizeBytes - 512), Math.min(at + 8 * BLOCK_BYTES, sizeBytes));
		}
		return [name, content];
	}),
);

type Random = (below: number) => number;
type Mutation = (bytes: Buffer, random: Random, other: Buffer) => Buffer;

/** Mostly in the headers: there is more to go wrong. */
function somewhere(bytes: Buffer, random: Random): number {
	if (random(4) === 0) return random(bytes.length);
	const extents: number[] = [0];
	for (let at = bytes.indexOf('VMAE'); at !== -1; at = bytes.indexOf('VMAE', at + 1)) extents.push(at);
	const start = extents[random(extents.length)]!;
	return Math.min(bytes.length - 1, start + random(start === 0 ? 12_800 : 512));
}

const mutations: Record<string, Mutation> = {
	'a flipped bit': (bytes, random) => {
		const copy = Buffer.from(bytes);
		copy[somewhere(bytes, random)]! ^= 1 << random(8);
		return copy;
	},
	'a few other bytes': (bytes, random) => {
		const copy = Buffer.from(bytes);
		const at = somewhere(bytes, random);
		for (let index = at; index < Math.min(copy.length, at + 1 + random(16)); index++) copy[index] = random(256);
		return copy;
	},
	'a cut end': (bytes, random) => bytes.subarray(0, somewhere(bytes, random)),
	'a part twice': (bytes, random) => {
		const at = somewhere(bytes, random);
		const end = at + 1 + random(bytes.length - at);
		return Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
	},
	'a part left out': (bytes, random) => {
		const at = somewhere(bytes, random);
		return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random(8192))]);
	},
	'blocks left out': (bytes, random) => {
		const at = 512 * random(bytes.length / 512);
		return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 512 * (1 + random(20)))]);
	},
	'the end of another archive': (bytes, random, other) => {
		const at = 512 * random(bytes.length / 512);
		return Buffer.concat([bytes.subarray(0, at), other.subarray(at)]);
	},
	'a part of another archive': (bytes, random, other) => {
		const copy = Buffer.from(bytes);
		const at = somewhere(bytes, random);
		other.copy(copy, at, at, at + random(8192));
		return copy;
	},
};

/** What comes of an archive: what it holds, or why it is refused. */
async function read(archive: Buffer, {index}: Archive): Promise<Contents | Error> {
	// Synchronous, so that ten thousand take seconds.
	async function* events(): AsyncGenerator<VmaEvent> {
		await Promise.resolve();
		const decoder = new VmaDecoder();
		for (let at = 0; at < archive.length; at += 60_000) yield* decoder.push(archive.subarray(at, at + 60_000));
		decoder.end();
	}
	try {
		return (await contentsOf(checkedAgainst(await VmaIndexReader.open(inPieces(index)), events()))).contents;
	} catch (error) {
		if (error instanceof Error) return error;
		throw error;
	}
}

test.each(Object.entries(mutations))(
	'of 1250 archives with %s, each is refused with the place, or reads the same',
	async (name, mutate) => {
		const random = seeded(name.length);
		const one = await written(header, contents);
		const uuid = '99999999-89ab-cdef-0123-456789abcdef';
		const order = clustersInOrder(header).reverse();
		const others = [
			await written({...header, uuid}, contents),
			await written(header, contents, order),
			await written(header, new Map([...contents].map(([key, content]) => [key, Buffer.alloc(content.length, 7)]))),
		];
		const before = process.memoryUsage().arrayBuffers;
		const surprises: unknown[] = [];
		let refused = 0;
		for (let run = 0; run < 1250; run++) {
			const archive = mutate(one.archive, random, others[random(others.length)]!.archive);
			const result = await read(archive, one);
			if (!(result instanceof Error)) {
				if (!archive.equals(one.archive) || !areSame(result, contents)) surprises.push(archive);
			} else {
				refused++;
				if (!isTold(result, archive.length)) surprises.push(result);
			}
		}
		expect(surprises).toEqual([]);
		expect(refused).toBeGreaterThan(name.includes('another') ? 400 : 1100);
		expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(256 * 1024 * 1024);
	},
);

/** Where it is damaged; or it is another archive, and all of it. */
function isTold(error: Error, length: number): boolean {
	if (error instanceof VmaIndexError) return error.message.includes('that of another archive');
	if (!(error instanceof VmaDamagedError) || error.code !== 'DAMAGED' || error.offset > length) return false;
	return new RegExp(`at byte ${error.offset}: expected .+(found|but) `).test(error.message);
}

test('of 500 damaged indexes, each is refused', async () => {
	const random = seeded(4);
	const one = await written(header, contents);
	for (let run = 0; run < 500; run++) {
		const index = Buffer.from(one.index);
		const cut = run % 3 === 0 ? random(index.length - 1) : index.length;
		if (cut === index.length) index[random(index.length - 1)]! ^= 1 << random(7);
		const result = await read(one.archive, {...one, index: index.subarray(0, cut)});
		if (!(result instanceof VmaIndexError)) expect(result).toBe(index.toString('latin1'));
	}
});
