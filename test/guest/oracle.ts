import {copyFile, open} from 'node:fs/promises';
import {constants} from 'node:fs';
import {outcome, output} from './command.ts';

/** A raw disk: its path, or its bytes. */
export type RawDisk = string | Uint8Array;

/** What one block holds instead of what `writes` writes would have left there. */
export interface Contradiction {
	/** Index into the disks given. */
	readonly disk: number;
	readonly block: number;
	/** The number of the write, `initial` for what was there before all writes, `unknown` for neither. */
	readonly expected: number | 'initial';
	readonly found: number | 'initial' | 'unknown';
}

export type Verdict =
	| {readonly sound: true; readonly writes: number}
	| {
			readonly sound: false;
			/** The least number of writes that could explain the newest block. */
			readonly writes: number;
			/** How many blocks contradict; the first few follow. */
			readonly count: number;
			readonly contradictions: readonly Contradiction[];
	  };

export const blockBytes = 4096;
const words = blockBytes / 4;
const magic = 0x51534357;

/**
 * Finds the number of writes of the guest's raw writer that explains every byte of all its disks, or says what contradicts.
 * Disks come in the writer's order, in the raw format; no `initial` means that they began as zeroes.
 */
export const explainWrites = async (disks: readonly RawDisk[], initial?: readonly RawDisk[]): Promise<Verdict> => {
	const images = await Promise.all(disks.map(load));
	const before = await Promise.all((initial ?? []).map(load));
	const found = images.map((image, disk) => blocksOf(image).map((block, at) => identify(block, disk, at)));
	const counts = images.map(image => Math.floor(image.length / blockBytes));

	// A write that shows in any block was done, and all before it. This n or none explains the disks.
	const writes = found
		.flat()
		.reduce<number>((most, write) => Math.max(most, typeof write === 'number' ? write + 1 : 0), 0);
	const contradictions: Contradiction[] = [];
	for (const [disk, image] of images.entries()) {
		const last = lastWrites(writes, images.length, disk, counts[disk]!);
		for (const [block, bytes] of blocksOf(image).entries()) {
			const expected = last[block]!;
			const seen = found[disk]![block]!;
			if (expected !== -1 ? seen === expected : isInitial(bytes, before[disk], block)) continue;
			contradictions.push({
				disk,
				block,
				expected: expected === -1 ? 'initial' : expected,
				found: typeof seen === 'number' ? seen : isInitial(bytes, before[disk], block) ? 'initial' : 'unknown',
			});
		}
	}
	if (contradictions.length === 0) return {sound: true, writes};
	return {sound: false, writes, count: contradictions.length, contradictions: contradictions.slice(0, 20)};
};

/** The bytes that write `k` puts on its disk. */
export const blockContent = (k: number, disk: number, block: number): Uint8Array => {
	const content = new Uint32Array(words);
	const low = k >>> 0;
	const high = Math.floor(k / 2 ** 32);
	let x = Math.imul(low, 0x9e3779b1) ^ Math.imul(high, 0xc2b2ae35) ^ Math.imul(disk, 0x27d4eb2f) ^ 0x5bd1e995;
	if (x === 0) x = 1;
	for (let index = 0; index < words; index++) {
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		content[index] = x;
	}
	content.set([magic, low, high, disk, block]);
	return new Uint8Array(content.buffer);
};

/** The block that the `index`th write of a pass over a disk goes to: each once in a pass. */
export const blockAt = (index: number, blocks: number): number => {
	let bits = 2;
	while (bits < 31 && 2 ** bits < blocks) bits++;
	const mask = 2 ** bits - 1;
	const half = bits >>> 1;
	let x = index;
	do {
		x = (Math.imul(x, 0x9e3779b1) + 0x7f4a7c15) & mask;
		x ^= x >>> half;
		x = Math.imul(x, 0x85ebca6b) & mask;
		x ^= x >>> half;
	} while (x >= blocks);
	return x;
};

/** For each block of a disk the write that it shows after `writes` writes in all; -1 for none. */
const lastWrites = (writes: number, disks: number, disk: number, blocks: number): Float64Array => {
	const last = new Float64Array(blocks).fill(-1);
	const here = Math.max(0, Math.ceil((writes - disk) / disks));
	for (let index = Math.max(0, here - blocks); index < here; index++) {
		last[blockAt(index % blocks, blocks)] = index * disks + disk;
	}
	return last;
};

const identify = (block: Uint8Array, disk: number, at: number): number | undefined => {
	const view = new DataView(block.buffer, block.byteOffset, 20);
	if (view.getUint32(0, true) !== magic) return undefined;
	const k = view.getUint32(4, true) + view.getUint32(8, true) * 2 ** 32;
	return Number.isSafeInteger(k) && Buffer.compare(block, blockContent(k, disk, at)) === 0 ? k : undefined;
};

const zeroes = new Uint8Array(blockBytes);

const isInitial = (block: Uint8Array, initial: Uint8Array | undefined, at: number): boolean =>
	Buffer.compare(block, initial?.subarray(at * blockBytes, (at + 1) * blockBytes) ?? zeroes) === 0;

const blocksOf = (image: Uint8Array): Uint8Array[] =>
	Array.from({length: Math.floor(image.length / blockBytes)}, (_, at) =>
		image.subarray(at * blockBytes, (at + 1) * blockBytes),
	);

const load = async (disk: RawDisk): Promise<Uint8Array> => {
	if (typeof disk !== 'string') return disk;
	await using file = await open(disk);
	return await file.readFile();
};

/**
 * The stamps on raw copies of the two ext4 disks.
 * Quiesced by the hook they are equal; at any other instant a = b, or a = b + 1 while the pair is being written.
 */
export const readStamps = async (imageA: string, imageB: string): Promise<{a: number; b: number}> => ({
	a: await readStamp(imageA),
	b: await readStamp(imageB),
});

const readStamp = async (image: string): Promise<number> => {
	const {stdout, stderr} = await outcome('debugfs', ['-R', 'cat /stamp', image]);
	if (!/^\d{20}\n$/.test(stdout)) throw new Error(`${image}: no stamp: ${JSON.stringify(stdout)} ${stderr.trim()}`);
	return Number(stdout);
};

/** Whether the file system was cut with writes in its journal: true for a crash-consistent copy, false for a quiesced one. */
export const needsRecovery = async (image: string): Promise<boolean> =>
	/^Filesystem features:.*\bneeds_recovery\b/m.test(await output('dumpe2fs', ['-h', image]));

/** A complete check that changes nothing. A journal that needs recovery is not replayed, which can look like damage. */
export const fsck = async (image: string): Promise<{clean: boolean; report: string}> => {
	const {code, stdout, stderr} = await outcome('e2fsck', ['-fn', image]);
	return {clean: code === 0, report: stdout + stderr};
};

/** What a guest finds that starts from a copy of `image`: the journal is replayed on `scratch`, then all is checked. */
export const fsckAfterReplay = async (image: string, scratch: string): Promise<{clean: boolean; report: string}> => {
	await copyFile(image, scratch, constants.COPYFILE_FICLONE);
	const {code, stdout, stderr} = await outcome('e2fsck', ['-y', '-E', 'journal_only', scratch]);
	if (code > 1) return {clean: false, report: stdout + stderr};
	return fsck(scratch);
};
