import {constants} from 'node:fs';
import fs, {type FileHandle} from 'node:fs/promises';
import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {systemReason} from './plain-file.ts';
import {readQcow2HeaderIn} from './qcow2-header.ts';
import type {ImageFormat} from './qemu-img.ts';

/** An image of a VM that does not run. */
export interface ClosedImage {
	/** Absolute. */
	readonly path: string;
	readonly format: ImageFormat;
	readonly kind: 'file' | 'device';
}

/** QEMU opens all of them, and we do. */
const MAX_IMAGES = 200;

/**
 * An image and those that it lies on, the top first, as their headers name them: read without QEMU, which would guess
 * a format that is not named, and follow a circle until it had no files left. `format` is never guessed either: a guest
 * can write any header to a raw disk. Throws `REFUSED` for what QEMU could not, or should not, open.
 */
export async function readImageChain(
	image: string,
	format: ImageFormat,
): Promise<readonly [ClosedImage, ...ClosedImage[]]> {
	const top = await readLink(image, format, undefined);
	const chain: [ClosedImage, ...ClosedImage[]] = [top.image];
	const seen = new Set([top.identity]);
	for (let {below} = top; below;) {
		const above = chain.at(-1)?.path ?? image;
		const link = await readLink(below.path, below.format, above);
		if (seen.has(link.identity)) {
			throw refused(`${above} lies on ${below.path}, which is above it: the chain goes round in a circle`);
		}
		if (chain.length === MAX_IMAGES) throw refused(`the chain of ${image} has more than ${MAX_IMAGES} images`);
		seen.add(link.identity);
		chain.push(link.image);
		({below} = link);
	}
	return chain;
}

interface Link {
	readonly image: ClosedImage;
	/** Of the file, whatever it is called. */
	readonly identity: string;
	readonly below: {readonly path: string; readonly format: ImageFormat} | undefined;
}

async function readLink(image: string, format: ImageFormat, above: string | undefined): Promise<Link> {
	const file = await open(image, above);
	try {
		const stat = await file.stat();
		if (!stat.isFile() && !stat.isBlockDevice()) throw refused(`${image} is neither a file nor a block device`);
		return {
			image: {path: image, format, kind: stat.isFile() ? 'file' : 'device'},
			identity: stat.isFile() ? `${stat.dev}:${stat.ino}` : `device ${stat.rdev}`,
			below: format === 'qcow2' ? await backingOf(file, image) : undefined,
		};
	} finally {
		await file.close();
	}
}

async function open(image: string, above: string | undefined): Promise<FileHandle> {
	try {
		// A pipe would hold us for ever.
		return await fs.open(image, constants.O_RDONLY | constants.O_NONBLOCK);
	} catch (cause) {
		const what = above === undefined ? image : `${above} lies on ${image}, which`;
		throw new QuiesceError('REFUSED', `${what} cannot be opened: ${systemReason(cause)}`, {
			cause,
			hint: 'Name the image as it is with --image DISK=PATH, or leave its disk out with --exclude.',
		});
	}
}

async function backingOf(file: FileHandle, image: string): Promise<Link['below']> {
	const header = await readQcow2HeaderIn(file, image).catch((cause: unknown) => {
		if (!(cause instanceof QuiesceError)) throw cause;
		throw new QuiesceError('REFUSED', cause.message, {
			cause,
			hint: 'If it is a raw image, say so: --image DISK=PATH,format=raw.',
		});
	});
	const {backingFile, backingFormat, state} = header;
	if (state === 'marked-corrupt') {
		throw refused(
			`QEMU has marked ${image} as corrupt`,
			'`qemu-img check -r all` mends what can be mended; copy it before.',
		);
	}
	if (backingFile === null) return undefined;
	const named = JSON.stringify(backingFile);
	if (/^[^/]*:/.test(backingFile)) throw refused(`${image} lies on ${named}, which is no file of this host`);
	if (backingFormat !== 'raw' && backingFormat !== 'qcow2') {
		throw refused(
			backingFormat === null
				? `${image} does not say which format its backing file ${named} has, and to guess it is not safe`
				: `${image} lies on ${named}, which is a ${JSON.stringify(backingFormat)} image`,
			'If that is raw or qcow2, record it: `qemu-img rebase -u -b BACKING -F FORMAT IMAGE`.',
		);
	}
	return {path: path.resolve(path.dirname(image), backingFile), format: backingFormat};
}

function refused(why: string, hint?: string): QuiesceError {
	return new QuiesceError('REFUSED', why, {hint});
}
