import fs from 'node:fs/promises';
import {execFileSync} from 'node:child_process';
import fc from 'fast-check';
import {expect, onTestFinished, test} from 'vitest';
import {CLUSTER_BYTES} from '../../src/vma/geometry.ts';
import {type OpenVma, openVma} from '../../src/vma/open-vma.ts';
import {toFile} from '../../src/vma/output.ts';
import {VmaWriter} from '../../src/vma/writer.ts';
import {type Archive, clustersInOrder, type Contents, headerOf, someContent, written} from './archives.ts';
import {temporaryFolder} from './temporary-folder.ts';

const header = headerOf(70 * CLUSTER_BYTES + 4608, 3 * CLUSTER_BYTES);
const contents: Contents = new Map(header.devices.map(({name, sizeBytes, id}) => [name, someContent(sizeBytes, id)]));

interface Files {
	readonly archive: string;
	readonly index: string;
}

async function filesOf({archive, index}: Archive): Promise<Files> {
	const folder = await temporaryFolder();
	const files = {archive: `${folder}/a.vma`, index: `${folder}/a.vma.index.json`};
	await fs.writeFile(files.archive, archive);
	await fs.writeFile(files.index, index);
	return files;
}

async function opened(archive: string, index?: string): Promise<OpenVma> {
	const vma = await openVma(archive, index);
	onTestFinished(() => vma.close());
	return vma;
}

const reversed = (): Promise<Archive> => written(header, contents, clustersInOrder(header).reverse());

test.each(['by-index', 'not-at-all'] as const)('any part of an archive is read, checked %s', async checked => {
	const {archive, index} = await filesOf(await reversed());
	const vma = await opened(archive, checked === 'by-index' ? index : undefined);
	expect(vma.header).toEqual(header);
	expect(vma.checked).toBe(checked);
	await fc.assert(
		fc.asyncProperty(fc.nat(), fc.nat(), fc.nat(1), async (from, to, number) => {
			const device = header.devices[number]!;
			const ends = [from, to].map(end => end % (device.sizeBytes + 1)).sort((a, b) => a - b);
			const [start = 0, end = 0] = ends;
			const expected = contents.get(device.name)!.subarray(start, end);
			expect((await vma.read(device, start, end - start)).equals(expected)).toBe(true);
		}),
		{numRuns: 60},
	);
	const [disk] = header.devices;
	await expect(vma.read(disk!, disk!.sizeBytes - 1, 2)).rejects.toThrow(RangeError);
	await expect(vma.read(disk!, -1, 2)).rejects.toThrow(RangeError);
	for (const {device, cluster} of clustersInOrder(header)) {
		const found = contents.get(device.name)!.subarray(cluster * CLUSTER_BYTES, (cluster + 1) * CLUSTER_BYTES);
		expect(vma.contentOf(device, cluster)).toBe(found.some(byte => byte !== 0) ? 'data' : 'zero');
	}
});

test('data that is not what the index says is refused where it is read, and other data is read', async () => {
	const {archive, index} = await reversed();
	const data = Buffer.from(archive);
	// In the last cluster that is stored: the first but one of the second disk.
	data[data.length - 1]! ^= 0x10;
	const files = await filesOf({archive: data, index});
	const vma = await opened(files.archive, files.index);
	const unchecked = await opened(files.archive);
	const damaged: string[] = [];
	for (const {device, cluster} of clustersInOrder(header)) {
		const offset = cluster * CLUSTER_BYTES;
		const length = Math.min(CLUSTER_BYTES, device.sizeBytes - offset);
		await unchecked.read(device, offset, length);
		await vma.read(device, offset, length).catch((error: unknown) => damaged.push(String(error)));
	}
	expect(damaged).toHaveLength(1);
	expect(damaged[0]).toMatch(/at byte \d+: expected cluster \d+ of drive-scsi\d with its checksum/);
});

test('a scan refuses what the headers of the extents show, with the place', async () => {
	const {archive, index} = await reversed();
	const flipped = Buffer.from(archive);
	flipped[12_800 + 41]! ^= 1;
	for (const [bytes, offset] of [
		[archive.subarray(0, 5000), 5000],
		[archive.subarray(0, 12_700), 12_700],
		[archive.subarray(0, 12_800 + 100), 12_900],
		[archive.subarray(0, -1), archive.length - 1],
		[Buffer.concat([archive, Buffer.alloc(512)]), archive.length],
		[flipped, 12_800 + 24],
	] as const) {
		const files = await filesOf({archive: bytes, index});
		await expect(openVma(files.archive)).rejects.toMatchObject({code: 'DAMAGED', offset});
	}
});

test('an index of another archive, or of one that has another length, is refused', async () => {
	const {archive, index} = await reversed();
	const other = await written({...header, createdSeconds: 1}, contents);
	const foreign = await filesOf({archive, index: other.index});
	await expect(openVma(foreign.archive, foreign.index)).rejects.toThrow('that of another archive');
	for (const bytes of [archive.subarray(0, -4096), Buffer.concat([archive, Buffer.alloc(1)])]) {
		const files = await filesOf({archive: bytes, index});
		await expect(openVma(files.archive, files.index)).rejects.toThrow(`expected ${archive.length} bytes`);
	}
	const cut = await filesOf({archive, index: index.subarray(0, -200)});
	await expect(openVma(cut.archive, cut.index)).rejects.toThrow('the index of the VMA archive');
	const empty = await filesOf({archive, index: Buffer.alloc(0)});
	await expect(openVma(empty.archive, empty.index)).rejects.toThrow('is empty');
});

test('what is no file is refused, and does not stop the program', async () => {
	const folder = await temporaryFolder();
	execFileSync('mkfifo', [`${folder}/pipe`]);
	await expect(openVma(`${folder}/pipe`)).rejects.toThrow('is no file');
	await expect(openVma(`${folder}/none`)).rejects.toMatchObject({code: 'ENOENT'});
});

test.each([
	['1 TiB', 2 ** 40, 'by-index'],
	['16 GiB', 2 ** 34, 'not-at-all'],
] as const)(
	'a disk of %s with little on it takes 8 bytes a cluster, little memory and a small index, and is read anywhere',
	async (_, size, checked) => {
		const sparse = headerOf(size);
		const [device] = sparse.devices;
		const folder = await temporaryFolder();
		const before = process.memoryUsage().arrayBuffers;
		const archive = await fs.open(`${folder}/a.vma`, 'wx');
		const index = await fs.open(`${folder}/a.index.json`, 'wx');
		const writer = new VmaWriter({header: sparse, output: toFile(archive), index: toFile(index)});
		const data = Buffer.alloc(CLUSTER_BYTES, 0x5a);
		await writer.write(1, size - CLUSTER_BYTES, data);
		await writer.writeZeroes(1, CLUSTER_BYTES, size - 2 * CLUSTER_BYTES);
		await writer.write(1, 0, data);
		const {bytes} = await writer.finish();
		// The first cluster did not wait for what was to come.
		expect(bytes).toBe(12_800 + (Math.ceil(size / CLUSTER_BYTES / 59) + 1) * 512 + 2 * CLUSTER_BYTES);
		expect((await archive.stat()).size).toBe(bytes);
		expect((await index.stat()).size).toBeLessThan(512 * 1024);
		await Promise.all([archive.close(), index.close()]);
		const vma = await opened(`${folder}/a.vma`, checked === 'by-index' ? `${folder}/a.index.json` : undefined);
		expect((await vma.read(device!, size - 10, 10)).equals(data.subarray(0, 10))).toBe(true);
		expect(await vma.read(device!, 65_530, 12)).toEqual(Buffer.concat([data.subarray(0, 6), Buffer.alloc(6)]));
		expect(vma.contentOf(device!, size / CLUSTER_BYTES / 2)).toBe('zero');
		expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
	},
	300_000,
);
