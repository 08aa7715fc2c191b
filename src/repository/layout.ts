import path from 'node:path';
import {UsageError} from '../errors.ts';
import {isPointId} from './point-id.ts';

export const REPOSITORY_FILE = 'repository.json';
export const VMS_FOLDER = 'vms';
export const MANIFEST_FILE = 'point.json';
/** Takes the place of point.json in a point that is to go and others still need. */
export const EXPIRED_FILE = 'expired.json';
export const MACHINE_FILE = 'machine.json';
/** Empty; in a point that no rule is to remove. */
export const PROTECTED_FILE = 'protected';
export const SUMS_FILE = 'SHA256SUMS';
/** In a partial point only: whose it is. */
export const OWNER_FILE = 'run.json';

/** What a file of a point may be called: no separator, nothing hidden, nothing that a tool takes for an option. */
export const PLAIN_NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;

const MAX_NAME_BYTES = 200;
/** A target is called `.partial` at first. */
const MAX_FILE_NAME_BYTES = 255 - '.partial'.length;
const IMAGE_EXTENSION = '.qcow2';

/** Where a VM's points are. */
export function vmFolder(repository: string, vm: string): string {
	return path.join(repository, VMS_FOLDER, encodeVmName(vm));
}

export function pointFolder(repository: string, vm: string, id: string): string {
	return path.join(vmFolder(repository, vm), id);
}

export function partialFolderName(id: string): string {
	return `.${id}.partial`;
}

/** The id of the point that a folder of this name would become. */
export function parsePartialFolderName(name: string): string | undefined {
	const id = /^\.(?<id>.+)\.partial$/.exec(name)?.groups?.['id'];
	return id !== undefined && isPointId(id) ? id : undefined;
}

/** What a point's folder is called while it is being removed. */
export function removedFolderName(id: string): string {
	return `.${id}.removed`;
}

export function isRemovedFolderName(name: string): boolean {
	const id = /^\.(?<id>.+)\.removed$/.exec(name)?.groups?.['id'];
	return id !== undefined && isPointId(id);
}

/** How an image names the image of another point that lies beneath it. */
export function backingFileName(point: string, file: string): string {
	return `../${point}/${file}`;
}

/** The point that an image names so; undefined if it names something else. */
export function pointOfBackingFile(name: string): string | undefined {
	const {id = '', file = ''} = /^\.\.\/(?<id>[^/]+)\/(?<file>[^/]+)$/.exec(name)?.groups ?? {};
	return isPointId(id) && isImageFileName(file) ? id : undefined;
}

/** The file of hashes that belongs to an image. */
export function hashesFileName(imageFile: string): string {
	return `${imageStem(imageFile)}.hashes`;
}

/** The note in a point that its image is being merged into that of another. */
export function mergingFileName(imageFile: string): string {
	return `${imageStem(imageFile)}.merging`;
}

/** A VM's name as one component of a path, whatever is in it: percent-encoded UTF-8, without a leading dot. */
export function encodeVmName(vm: string): string {
	const encoded = vm.replaceAll(/[^A-Za-z0-9._-]/gu, percent).replace(/^\./, percent);
	if (vm === '' || !vm.isWellFormed() || encoded.length > MAX_NAME_BYTES) {
		throw new UsageError(`${JSON.stringify(vm)} cannot be the name of a VM in a repository`, {
			hint: 'It must not be empty, nor much longer than 60 letters outside ASCII or 200 within.',
		});
	}
	return encoded;
}

/** The VM of a folder; undefined if no VM's folder is called so. */
export function decodeVmName(folder: string): string | undefined {
	try {
		const vm = decodeURIComponent(folder);
		return encodeVmName(vm) === folder ? vm : undefined;
	} catch {
		return undefined;
	}
}

function percent(character: string): string {
	return Buffer.from(character)
		.toString('hex')
		.toUpperCase()
		.replaceAll(/../g, byte => `%${byte}`);
}

/** True for the name of a disk's image in a point. */
export function isImageFileName(file: string): boolean {
	return PLAIN_NAME.test(file) && file.endsWith(IMAGE_EXTENSION) && file.length <= MAX_FILE_NAME_BYTES;
}

export function imageFileName(stem: string): string {
	return `${stem}${IMAGE_EXTENSION}`;
}

/** The image's name without its extension. */
export function imageStem(file: string): string {
	return path.basename(file, IMAGE_EXTENSION);
}
