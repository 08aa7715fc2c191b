import {constants} from 'node:fs';
import fs, {type FileHandle} from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {systemReason} from './plain-file.ts';
import {imageInfo, type ImageFormat} from './qemu-img.ts';

/** Where an image is to be written: a file that does not exist yet, or a block device. */
export interface ImageTarget {
	readonly kind: 'new-file' | 'device';
	/** Absolute. */
	readonly path: string;
	readonly format: ImageFormat;
}

/**
 * Looks at a place that the operator named for a disk of `sizeBytes`, and changes nothing. Throws a {@link UsageError}
 * if it is a file that exists, or a device that is in use, too small, or meant to hold anything but raw data.
 */
export async function inspectTarget(named: string, sizeBytes: number, format: ImageFormat): Promise<ImageTarget> {
	const file = path.resolve(named);
	const kind = await kindOf(file);
	if (kind === 'new-file') return {kind, path: file, format};
	if (format !== 'raw') throw new UsageError(`${file} is a block device: only raw data can be written to it`);
	await (await claimDevice(file)).close();
	const {virtualSizeBytes} = await imageInfo(file, 'raw');
	if (virtualSizeBytes >= sizeBytes) return {kind, path: file, format};
	throw new UsageError(`${file} has ${virtualSizeBytes} bytes, and the disk ${sizeBytes}`, {
		hint: 'Make the device larger, or restore to a file.',
	});
}

/** Opens a block device that nobody has mounted or claimed, and keeps others from doing so until it is closed. */
export async function claimDevice(device: string): Promise<FileHandle> {
	try {
		return await fs.open(device, constants.O_RDWR | constants.O_EXCL);
	} catch (error) {
		if (errnoOf(error) === 'EBUSY') {
			throw new UsageError(`${device} is in use: mounted, or part of a volume`, {
				cause: error,
				hint: 'Unmount it first.',
			});
		}
		throw new QuiesceError('FAILED', `cannot write to ${device}: ${systemReason(error)}`, {cause: error});
	}
}

async function kindOf(file: string): Promise<ImageTarget['kind']> {
	try {
		if ((await fs.stat(file)).isBlockDevice()) return 'device';
	} catch (error) {
		if (errnoOf(error) === 'ENOENT' && (await isFolder(path.dirname(file)))) return 'new-file';
		if (errnoOf(error) === 'ENOENT') throw new UsageError(`there is no folder ${path.dirname(file)}`, {cause: error});
		throw new UsageError(`cannot restore to ${file}: ${systemReason(error)}`, {cause: error});
	}
	throw new UsageError(`${file} exists, and is not overwritten`, {hint: 'Name a new file, or remove this one first.'});
}

async function isFolder(folder: string): Promise<boolean> {
	return (await fs.stat(folder).catch(() => undefined))?.isDirectory() ?? false;
}
