import {readReverting, revertingFile} from '../snapshots/reverting.ts';
import {qemuOf} from './capture-machine.ts';
import {snapshotFolders} from './snapshot-folders.ts';
import type {Session} from './vm-session.ts';

/**
 * Tells of a revert of this VM's images that has not come to its end: its disks are of different times. That cannot be undone, and
 * whether the VM is to go on so is not ours to say.
 */
export async function tellOfReverts(vm: Session, named?: string): Promise<string[]> {
	const qemuFolder = (await qemuOf(vm))?.cwd;
	const told: string[] = [];
	for (const folder of snapshotFolders(vm.name, await vm.readGraph(), qemuFolder, named)) {
		const left = await readReverting(folder);
		if (left?.vm !== vm.name) continue;
		const disks = left.images.map(({disk}) => disk).join(', ');
		told.push(
			`found that a revert to ${left.snapshot} was not ended: of ${disks} some may be at it, and others not: with the VM off, ` +
				`run it again; or remove ${revertingFile(folder)} if they are to stay as they are`,
		);
	}
	return told;
}
