import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {createImage} from '../images/qemu-img.ts';
import {fileError, syncFile, syncFolder} from '../repository/durable-files.ts';
import {storesNothing} from '../images/stores-nothing.ts';

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
 * Removes an overlay that has never come into use. `kept` says why it was not: another file is in its place, or it has
 * been written to. To be asked only while no QEMU has it open.
 */
export async function removeUnused(overlay: {
	readonly file: string;
	readonly inode: number | null;
}): Promise<{readonly removed: boolean; readonly kept?: string}> {
	const {file, inode} = overlay;
	const stat = await fs.lstat(file).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw fileError('read', file, error);
	});
	if (!stat) return {removed: false};
	if (!stat.isFile() || (inode !== null && stat.ino !== inode)) {
		return {removed: false, kept: `${file} is another file than was made`};
	}
	if (!(await storesNothing(file))) return {removed: false, kept: `${file} has been written to`};
	await fs.rm(file);
	await syncFolder(path.dirname(file));
	return {removed: true};
}
