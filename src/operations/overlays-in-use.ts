import fs from 'node:fs/promises';
import type {BlockGraph} from '../block/graph.ts';
import type {BlockNode} from '../block/nodes.ts';
import type {SnapshotDisk} from '../snapshots/manifest.ts';
import type {SnapshotPlan} from '../snapshots/journal.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {fileOn} from './source-images.ts';

export type SnapshotOverlay = NonNullable<SnapshotDisk['overlay']>;

/** An overlay of an unfinished snapshot on which a disk of the VM lies. */
export interface OverlayInUse {
	/** As the snapshot calls it. */
	readonly name: string;
	readonly disk: DiskWithMedium;
	readonly overlay: SnapshotOverlay;
	readonly top: BlockNode;
	/** What it lies on. */
	readonly base: BlockNode | undefined;
}

export function overlaysOf({disks}: SnapshotPlan): SnapshotOverlay[] {
	return disks.flatMap(({overlay}) => overlay ?? []);
}

/** Found by node or, as QEMU may have been started anew, by file. */
export async function overlaysInUse(
	graph: BlockGraph,
	{disks}: SnapshotPlan,
	qemuFolder: string | undefined,
): Promise<OverlayInUse[]> {
	const found: OverlayInUse[] = [];
	for (const {name, overlay} of disks) {
		if (!overlay) continue;
		for (const {medium, ...disk} of graph.disks) {
			if (!medium) continue;
			const depth = await depthOf(medium.chain, overlay, qemuFolder);
			const [top, base] = medium.chain.slice(depth ?? medium.chain.length);
			if (top) found.push({name, disk: {...disk, medium}, overlay, top, base});
		}
	}
	return found;
}

async function depthOf(
	chain: readonly BlockNode[],
	{node, file, inode}: SnapshotOverlay,
	qemuFolder: string | undefined,
): Promise<number | undefined> {
	for (const [depth, {name, filename}] of chain.entries()) {
		if (name === node) return depth;
		const there = fileOn(filename, qemuFolder);
		if (there === undefined) continue;
		const same = await Promise.all([fs.realpath(there), fs.realpath(file), fs.stat(there)]).catch(() => undefined);
		if (same && (same[0] === same[1] || same[2].ino === inode)) return depth;
	}
	return undefined;
}
