import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';
import {fileError, isThere, removeTree, syncFolder} from './durable-files.ts';
import {
	EXPIRED_FILE,
	isRemovedFolderName,
	MANIFEST_FILE,
	PROTECTED_FILE,
	removedFolderName,
	vmFolder,
} from './layout.ts';
import type {StoredDisk} from './manifest.ts';
import type {Point} from './points.ts';
import type {Repository} from './repository.ts';

/**
 * Makes a point invisible, whole as it is: others may lie on it. Returns false, and leaves it, if it has been protected
 * by now. To be called by the holder of the lock on the VM's points, as is all below.
 */
export async function expirePoint({folder}: Pick<Point, 'folder'>): Promise<boolean> {
	const [visible, expired] = [path.join(folder, MANIFEST_FILE), path.join(folder, EXPIRED_FILE)];
	try {
		await fs.rename(visible, expired);
		// Looked at after: who protects a point looks afterwards whether it is still visible.
		const isProtected = await isThere(path.join(folder, PROTECTED_FILE));
		if (isProtected) await fs.rename(expired, visible);
		await syncFolder(folder);
		return !isProtected;
	} catch (error) {
		throw fileError('remove', folder, error);
	}
}

/**
 * Removes a point that nothing lies on: at once for everybody who looks. Returns the bytes that are free now; of clones,
 * what their points have cost.
 */
export async function removePoint(point: Pick<Point, 'id' | 'folder'> & Partial<Point>): Promise<number> {
	const {id, folder, manifest} = point;
	const parent = path.dirname(folder);
	const removed = path.join(parent, removedFolderName(id));
	try {
		const bytes = await ownBytes(folder, manifest?.disks ?? []);
		await fs.rename(folder, removed);
		await syncFolder(parent);
		await removeTree(removed);
		await syncFolder(parent);
		return bytes;
	} catch (error) {
		throw fileError('remove', folder, error);
	}
}

/** Removes what is left of points whose removal was interrupted. Returns the names of their folders. */
export async function removeLeftFolders(repository: Repository, vm: string): Promise<readonly string[]> {
	const parent = vmFolder(repository.path, vm);
	try {
		const left = (await fs.readdir(parent)).filter(isRemovedFolderName);
		for (const name of left) await removeTree(path.join(parent, name));
		if (left.length > 0) await syncFolder(parent);
		return left;
	} catch (error) {
		throw fileError('remove what is left in', parent, error);
	}
}

/** A VM without a folder is one that the repository does not know. */
export async function forgetEmptyVm(repository: Repository, vm: string): Promise<void> {
	const folder = vmFolder(repository.path, vm);
	try {
		await fs.rmdir(folder);
		await syncFolder(path.dirname(folder));
	} catch (error) {
		if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(errnoOf(error) ?? '')) throw fileError('remove', folder, error);
	}
}

/** What a file takes on the disk: holes take nothing. */
export async function fileBytes(file: string): Promise<number> {
	return (await fs.lstat(file)).blocks * 512;
}

async function ownBytes(folder: string, disks: readonly StoredDisk[]): Promise<number> {
	const bytes = (await fs.readdir(folder)).map(async name => {
		const occupied = await fileBytes(path.join(folder, name));
		const disk = disks.find(({file}) => file === name);
		return disk && disk.addedBytes < disk.storedBytes ? Math.min(occupied, disk.addedBytes) : occupied;
	});
	return (await Promise.all(bytes)).reduce((one, other) => one + other, 0);
}
