import path from 'node:path';
import {encodeVmName} from '../repository/layout.ts';

export const SNAPSHOT_FILE = 'snapshot.json';
export const MEMORY_FILE = 'memory.zst';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Whether a snapshot may be called so. */
export function isSnapshotName(name: string): boolean {
	return NAME.test(name);
}

/** Where the snapshots of a VM are told of, beside the images in `folder`. */
export function snapshotsFolder(folder: string, vm: string): string {
	return path.join(folder, `${encodeVmName(vm)}.snapshots`);
}

export function partialFolderName(name: string): string {
	return `.${name}.partial`;
}

/** The snapshot that a folder of this name would become. */
export function parsePartialFolderName(folder: string): string | undefined {
	const name = /^\.(?<name>.+)\.partial$/.exec(folder)?.groups?.['name'];
	return name !== undefined && isSnapshotName(name) ? name : undefined;
}
