import type {Stats} from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import {type BlockNode, type BlockNodes, childOf} from '../block/nodes.ts';
import {errnoOf} from '../errors.ts';
import type {SourceImage} from '../repository/manifest.ts';
import type {DiskWithMedium} from './select-disks.ts';

/**
 * The images that a disk is made of, as they are found on this host; relative names are those of QEMU's folder. Null if
 * one has a name that is no path, so that it cannot be told from another.
 */
export async function sourceImages(
	{medium}: DiskWithMedium,
	qemuFolder: string | undefined,
): Promise<readonly SourceImage[] | null> {
	const images: SourceImage[] = [];
	for (const [index, node] of medium.chain.entries()) {
		const filename = index === 0 ? medium.filename : node.filename;
		if (filename === '' || filename.startsWith('json:')) return null;
		const file = fileOn(filename, qemuFolder);
		const stat = file === undefined ? undefined : await statOf(file);
		images.push({
			// Another QEMU, or we, may be in another folder.
			filename: stat && file !== undefined ? file : filename,
			format: node.driver,
			inode: stat?.ino ?? null,
			unchanged: index === 0 || !stat?.isFile() ? null : {bytes: stat.size, modifiedAt: stat.mtime.toISOString()},
		});
	}
	return images;
}

/** What QEMU calls an image, as a path of this host; undefined for what is no file, or is relative to nobody knows what. */
export function fileOn(filename: string, qemuFolder: string | undefined): string | undefined {
	if (filename === '' || filename.startsWith('json:')) return undefined;
	if (path.isAbsolute(filename)) return filename;
	return qemuFolder === undefined ? undefined : path.join(qemuFolder, filename);
}

/**
 * Whether a bitmap that is stored in the disk's own image is worth something after QEMU has ended. Not where a change of
 * the disk's content could come by another file meanwhile, and nobody would see it.
 */
export function canPersist(
	{medium}: DiskWithMedium,
	nodes: BlockNodes,
	images: readonly SourceImage[] | null,
): boolean {
	const node = nodes.get(medium.node);
	if (medium.format !== 'qcow2' || medium.readOnly || !node || hasDataFile(node) || !images) return false;
	return images[0]?.inode !== null && images.slice(1).every(({unchanged}) => unchanged !== null);
}

function hasDataFile(node: BlockNode): boolean {
	return childOf(node, 'data-file') !== undefined;
}

/**
 * How many images have been put on top of those of then: 0 where the disk's own image is the same, or where none of then is
 * beneath.
 */
export function overlaysSince(then: readonly SourceImage[] | null, now: readonly SourceImage[] | null): number {
	const own = then?.[0];
	const depth = own && now ? now.findIndex(image => isSameFile(own, image)) : 0;
	return Math.max(0, depth);
}

/**
 * A file that is told by its inode may be called by another path: QEMU makes up that of a backing file from the name in the
 * image's header.
 */
function isSameFile(one: SourceImage, other: SourceImage): boolean {
	if (one.inode !== other.inode) return false;
	return one.inode === null
		? one.filename === other.filename
		: path.basename(one.filename) === path.basename(other.filename);
}

/**
 * Why what the disk is made of today is not what it was made of then, to follow its name and `because`; undefined if it is,
 * as far as its bitmap cannot tell. Not counted are images that were put on top since, and that the disk's own image was
 * merged into one beneath it, which has its bitmap then. `inSameQemu`: that QEMU has had all of them open in between, so
 * what is missing was taken out by a job of its own, which leaves what the disk holds as it is.
 */
export function imageChange(
	then: readonly SourceImage[] | null,
	now: readonly SourceImage[] | null,
	inSameQemu: boolean,
): string | undefined {
	if (!then || !now) return then === now ? undefined : 'the images it is made of cannot be told any more';
	const known = now.slice(overlaysSince(then, now));
	const [own] = known;
	const depth = then.findIndex(image => own && isSameFile(image, own));
	const change = differenceOf(then.slice(Math.max(0, depth)), known);
	return inSameQemu && known.length < then.length && isPartOf(known, then) ? undefined : change;
}

/** Whether all of some images are among others, in the same order. */
function isPartOf(some: readonly SourceImage[], all: readonly SourceImage[]): boolean {
	let from = 0;
	return some.every(image => {
		const found = all.findIndex((other, at) => at >= from && isSameFile(other, image) && other.format === image.format);
		from = found + 1;
		return found >= 0;
	});
}

function differenceOf(then: readonly SourceImage[], now: readonly SourceImage[]): string | undefined {
	for (const [index, image] of now.entries()) {
		const before = then[index];
		const isBase = index > 0;
		if (!before) return `its chain of images has grown: ${image.filename} is beneath it`;
		if (before.format !== image.format) return `it was a ${before.format} disk, and is a ${image.format} disk`;
		if (!isSameFile(before, image)) return exchanged(before, image, isBase);
		// What was the guest's own has been written to since, and its own bitmap tells where.
		if (!isBase) continue;
		if (
			before.unchanged?.bytes !== image.unchanged?.bytes ||
			before.unchanged?.modifiedAt !== image.unchanged?.modifiedAt
		) {
			return `its base image ${image.filename} was written to`;
		}
	}
	return then.length > now.length ? 'its chain of images is shorter than it was' : undefined;
}

function exchanged(before: SourceImage, {filename}: SourceImage, isBase: boolean): string {
	if (path.basename(before.filename) !== path.basename(filename)) {
		return isBase ? `its base image is another one: ${filename}` : `another image is in its place: ${filename}`;
	}
	return isBase ? `its base image ${filename} was replaced` : `${filename} was replaced by another file`;
}

async function statOf(file: string): Promise<Stats | undefined> {
	try {
		return await fs.stat(file);
	} catch (error) {
		if (['ENOENT', 'EACCES', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw error;
	}
}

/** Undefined for what cannot be looked at. */
export async function inodeOf(file: string): Promise<number | undefined> {
	return fs.stat(file).then(
		({ino}) => ino,
		() => undefined,
	);
}
