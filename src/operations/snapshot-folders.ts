import path from 'node:path';
import type {BlockGraph} from '../block/graph.ts';
import {snapshotsFolder} from '../snapshots/layout.ts';
import {type DamagedSnapshot, listSnapshots, type Snapshot} from '../snapshots/snapshots.ts';
import {qemuOf} from './capture-machine.ts';
import {fileOn} from './source-images.ts';
import type {Session} from './vm-session.ts';

/** Where snapshots of a VM may be told of: beside every image of its disks, and in a folder that was named. */
export function snapshotFolders(
	vm: string,
	graph: BlockGraph,
	qemuFolder: string | undefined,
	named: string | undefined,
): readonly string[] {
	const images = graph.disks.flatMap(({medium}) =>
		medium ? [medium.filename, ...medium.chain.map(node => node.filename)] : [],
	);
	const files = images.flatMap(filename => fileOn(filename, qemuFolder) ?? []);
	const folders = [...(named === undefined ? [] : [path.resolve(named)]), ...files.map(file => path.dirname(file))];
	return [...new Set(folders)].map(folder => snapshotsFolder(folder, vm));
}

/** The snapshots in all of these folders, the oldest first. */
export async function snapshotsIn(folders: readonly string[]): Promise<readonly (Snapshot | DamagedSnapshot)[]> {
	const lists = await Promise.all(folders.map(folder => listSnapshots(folder)));
	return lists.flat();
}

/** Those of them of a VM that can be read. */
export async function readableSnapshots(vm: Session, named: string | undefined): Promise<readonly Snapshot[]> {
	const folders = snapshotFolders(vm.name, await vm.readGraph(), (await qemuOf(vm))?.cwd, named);
	return (await snapshotsIn(folders)).flatMap(one => (one.state === 'readable' ? [one] : []));
}
