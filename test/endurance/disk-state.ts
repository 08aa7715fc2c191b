import {open} from 'node:fs/promises';
import {identifySector, SECTOR_BYTES, type Write, ZEROES} from './writes.ts';

/** For each sector which write it shows. */
export type DiskState = Int32Array;

export function blankState(sectors: number): DiskState {
	return new Int32Array(sectors).fill(ZEROES);
}

/** Of a raw image. */
export async function readState(file: string, disk: number): Promise<DiskState> {
	await using handle = await open(file);
	const {size} = await handle.stat();
	const bytes = Buffer.from(new ArrayBuffer(size));
	for (let at = 0; at < size;) {
		const {bytesRead} = await handle.read(bytes, at, Math.min(size - at, 64 << 20), at);
		if (bytesRead === 0) throw new Error(`${file} became shorter`);
		at += bytesRead;
	}
	const words = new Uint32Array(bytes.buffer, bytes.byteOffset, size / 4);
	const state = new Int32Array(size / SECTOR_BYTES);
	for (let sector = 0; sector < state.length; sector++) {
		state[sector] = identifySector(words, (sector * SECTOR_BYTES) / 4, disk, sector);
	}
	return state;
}

export function apply(states: readonly DiskState[], k: number, {kind, disk, at, length}: Write): void {
	states[disk]?.fill(kind === 'data' ? k : ZEROES, at, at + length);
}

/** QEMU's and the repository's, in sectors. */
const CLUSTER = 128;

export interface Difference {
	readonly disk: number;
	readonly cluster: number;
	/** Of its first sector that differs. */
	readonly sector: number;
	readonly expected: number;
	readonly found: number;
}

/** One for each cluster that differs. Null is a disk that is not looked at. */
export function differences(expected: readonly DiskState[], found: readonly (DiskState | null)[]): Difference[] {
	return expected.flatMap((wanted, disk) => {
		const seen = found[disk];
		if (seen === null) return [];
		if (seen?.length !== wanted.length) throw new Error(`disk ${disk} has ${seen?.length ?? 0} sectors`);
		const wrong: Difference[] = [];
		for (let sector = 0; sector < wanted.length; sector++) {
			if (wanted[sector] === seen[sector]) continue;
			const cluster = Math.floor(sector / CLUSTER);
			if (wrong.at(-1)?.cluster === cluster) continue;
			wrong.push({disk, cluster, sector, expected: wanted[sector]!, found: seen[sector]!});
		}
		return wrong;
	});
}

export function clustersOf(states: readonly DiskState[]): number {
	return states.reduce((sum, {length}) => sum + Math.ceil(length / CLUSTER), 0);
}
