import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {createImage} from '../images/qemu-img.ts';
import {fileError, syncFile, syncFolder} from '../repository/durable-files.ts';
import {storesNothing} from '../images/stores-nothing.ts';
import type {ImageFile} from './manifest.ts';

/** An overlay that is to be made: an empty qcow2 image over another. */
export interface OverlayFile {
	/** Absolute; must be free. */
	readonly file: string;
	readonly base: {readonly file: string; readonly format: string};
	readonly sizeBytes: number;
	readonly clusterBytes: number;
}

/**
 * Makes it, durably: from the cut on it holds what the guest writes. It belongs to whom the base belongs, so that the QEMU
 * which can open that can open it. Returns its inode.
 */
export async function createOverlay({file, base, sizeBytes, clusterBytes}: OverlayFile): Promise<number> {
	await createImage(file, {
		sizeBytes,
		compression: 'zstd',
		clusterBytes,
		// As QEMU calls it: else it would take the image for one that lies on another than its header says.
		backing: base,
	});
	try {
		const [{uid, gid, mode}, own] = [await fs.stat(base.file), await fs.stat(file)];
		if (uid !== own.uid || gid !== own.gid) await fs.chown(file, uid, gid);
		// Nobody gets at more than before, and a base that is read-only by its mode is not to be imitated.
		await fs.chmod(file, (mode & 0o666) | 0o600);
		await syncFile(file);
		await syncFolder(path.dirname(file));
		return own.ino;
	} catch (error) {
		await fs.rm(file, {force: true});
		if (errnoOf(error) !== 'EPERM') throw fileError('create', file, error);
		throw new QuiesceError('FAILED', `cannot give ${file} to the owner of ${base.file}, as whom QEMU may run`, {
			cause: error,
			hint: 'Run as root, or as the owner of the image.',
		});
	}
}

/**
 * `unused`: it holds nothing, and can be thrown away. `written`: it holds what a guest has written. `foreign`: another file is
 * in its place. To be asked only while no QEMU has it open.
 */
export async function stateOfOverlay({
	file,
	inode,
}: Pick<ImageFile, 'file' | 'inode'>): Promise<'absent' | 'unused' | 'written' | 'foreign'> {
	const stat = await fs.lstat(file).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw fileError('read', file, error);
	});
	if (!stat) return 'absent';
	if (!stat.isFile() || (inode !== null && stat.ino !== inode)) return 'foreign';
	if (await storesNothing(file)) return 'unused';
	// What is not known by its inode has never been cut to.
	return inode === null ? 'foreign' : 'written';
}

/** Durably. */
export async function removeFile(file: string): Promise<void> {
	await fs.rm(file);
	await syncFolder(path.dirname(file));
}
