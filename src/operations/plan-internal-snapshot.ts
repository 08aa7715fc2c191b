import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {snapshotsFolder} from '../snapshots/layout.ts';
import type {SnapshotDisk} from '../snapshots/manifest.ts';
import {nameTaken} from '../snapshots/partial-snapshot.ts';
import {baseOf, chooseName, type PlannedSnapshot, type SnapshotFacts} from './plan-snapshot.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {snapshotFolders, snapshotsIn} from './snapshot-folders.ts';
import type {SnapshotRequest} from './snapshot-messages.ts';

/** The same for a snapshot that the images keep in themselves. */
export async function planInternalSnapshot(
	{vm, graph, qemu, selected: {disks, warnings}}: SnapshotFacts,
	request: Pick<SnapshotRequest, 'snapshot' | 'folder'>,
	now = new Date(),
): Promise<PlannedSnapshot> {
	const known = await snapshotsIn(snapshotFolders(vm.name, graph, qemu?.cwd, request.folder));
	const inside = disks.flatMap(({medium}) => medium.chain[0].snapshots.map(({name}) => name));
	const taken = new Set([...known.map(({name}) => name), ...inside]);
	const name = chooseName(request.snapshot, taken, now);
	const records: SnapshotDisk[] = [];
	for (const disk of disks) {
		requireInternal(disk);
		// The name may be free in our list alone.
		if (disk.medium.chain[0].snapshots.some(snapshot => snapshot.name === name)) {
			throw nameTaken(name, `${disk.name} has an internal one of that name`);
		}
		const base = await baseOf(disk, qemu?.cwd);
		const {virtualSize: sizeBytes} = disk.medium;
		records.push({
			...{name: disk.name, sizeBytes, deviceType: disk.deviceType ?? null, overlay: null},
			base: {file: base.file, format: base.format, inode: base.stat.ino},
		});
	}
	const folder = request.folder ?? path.dirname(records[0]?.base.file ?? '');
	return {name, folder: snapshotsFolder(path.resolve(folder), vm.name), overlays: [], records, warnings};
}

function requireInternal({name, medium}: DiskWithMedium): void {
	const refused = (why: string): QuiesceError =>
		new QuiesceError('REFUSED', `no internal snapshot can be taken of ${name}: ${why}`, {
			hint: `Leave it out with --exclude ${name}, or take the snapshot without --internal.`,
		});
	if (medium.format !== 'qcow2')
		throw refused(`it is a ${medium.format} image, and only qcow2 ones have room for them`);
	if (medium.rootNode !== medium.node) throw refused(`the filter ${medium.rootNode} lies over it`);
}
