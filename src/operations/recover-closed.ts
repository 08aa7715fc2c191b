import path from 'node:path';
import {isThere} from '../repository/durable-files.ts';
import {stateOf} from '../repository/owner.ts';
import {snapshotsFolder} from '../snapshots/layout.ts';
import {removeFile} from '../snapshots/overlay-file.ts';
import {listPartialSnapshots} from '../snapshots/partial-snapshot.ts';
import {journalsOfDead, type MergeRecord} from './chain-journal.ts';
import {lockKeyOf} from './open-images.ts';
import {overlaysOf} from './overlays-in-use.ts';
import {removeMadeOverlays} from './remove-made-overlays.ts';
import type {KnownVm} from './vm-images.ts';
import {inodeOf} from './source-images.ts';

/**
 * What dead runs have left of a VM that is off and would keep its images from being opened: overlays of a snapshot that has not come
 * to its end, and the rest of layers that were being removed. The caller holds the VM's lock. Returns what it did, in words.
 */
export async function recoverClosed(vm: KnownVm): Promise<string[]> {
	const images = vm.disks.flatMap(({image}) => (image ? [path.resolve(image.path)] : []));
	return [...(await removeUnusedOverlays(vm.name, images)), ...(await removeRest(lockKeyOf(vm)))];
}

/** If the VM is to be started from one, it is for whoever opens it to finish the snapshot. */
async function removeUnusedOverlays(vm: string, images: readonly string[]): Promise<string[]> {
	const done: string[] = [];
	for (const folder of new Set(images.map(image => snapshotsFolder(path.dirname(image), vm)))) {
		for (const {partial} of await listPartialSnapshots(folder)) {
			if (partial?.plan.vm !== vm || partial.journal.undoing || (await stateOf(partial.journal)) !== 'dead') continue;
			const overlays = overlaysOf(partial.plan);
			if (overlays.length === 0 || overlays.some(({file}) => images.includes(file))) continue;
			done.push(...(await removeMadeOverlays(partial)));
		}
	}
	return done;
}

/** Once one of them is gone, those above it can be opened by nobody, and what they held is in the base. */
async function removeRest(lockKey: string): Promise<string[]> {
	const done: string[] = [];
	for (const {run, journal} of await journalsOfDead(lockKey)) {
		for (const merge of journal.merges) {
			if (!merge.merged || (await Promise.all(merge.files.map(({file}) => isThere(file)))).every(Boolean)) continue;
			done.push(...(await removeThose(merge)).map(file => `removed ${file}, which run ${run} had merged`));
		}
	}
	return done;
}

async function removeThose({files}: MergeRecord): Promise<string[]> {
	const removed: string[] = [];
	for (const {file, inode} of files.toReversed()) {
		if ((await inodeOf(file)) !== inode) continue;
		await removeFile(file);
		removed.push(file);
	}
	return removed;
}
