import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf, QuiesceError} from '../errors.ts';
import {readQcow2Header} from '../images/qcow2-header.ts';
import {parseDocument} from './document.ts';
import {readDocument} from './durable-files.ts';
import {backingFileName, mergingFileName} from './layout.ts';
import type {StoredDisk} from './manifest.ts';
import {isPointId} from './point-id.ts';
import {type Point, readStored} from './points.ts';
import type {Repository} from './repository.ts';

/** One image of a chain. */
export interface DiskLink {
	readonly point: Point;
	readonly disk: StoredDisk;
	readonly file: string;
	/** How its header has to name the image beneath; null if it has to name none. */
	readonly backingFile: string | null;
}

/** A disk of a point, and all images that are read with it. */
export interface DiskChain {
	/** The one that stands alone first, that of the point last. */
	readonly links: readonly [DiskLink, ...DiskLink[]];
	/**
	 * `files`: each image is as its manifest says. `content`: one of them is known by what it shows only, being a clone, or
	 * because of a merge. The files' own checksums then say nothing.
	 */
	readonly knownBy: 'files' | 'content';
	/** Points whose documents may not be of one mind, as a merge into them has begun and not ended. */
	readonly unsettled: readonly string[];
}

const MERGING_FORMAT = 1;

const mergingSchema = v.looseObject({format: v.literal(MERGING_FORMAT), into: v.pipe(v.string(), v.check(isPointId))});

/** Throws `DAMAGED` if a point of the chain is missing or cannot be read. Opens no image with QEMU. */
export async function readDiskChain(repository: Repository, point: Point, disk: StoredDisk): Promise<DiskChain> {
	const links: DiskLink[] = [];
	const unsettled: string[] = [];
	let [upper, stored] = [point, disk];
	for (;;) {
		const file = path.join(upper.folder, stored.file);
		if (stored.backing === null) {
			links.unshift({point: upper, disk: stored, file, backingFile: null});
			break;
		}
		let beneath = await diskBeneath(repository, upper, stored, stored.backing);
		if ([point, ...links.map(link => link.point)].some(({id}) => id === beneath.point.id)) {
			throw new QuiesceError('DAMAGED', `point ${beneath.point.id} is its own ancestor`);
		}
		let backing: Beneath | undefined = beneath;
		if ((await mergingInto(beneath)) === upper.id) {
			unsettled.push(upper.id);
			// The merged image has taken the place of the upper one, and lies on what was beneath the other.
			const named = (await readQcow2Header(file)).backingFile;
			if (named !== backingFileName(beneath.point.id, beneath.disk.file)) {
				const next = beneath.disk.backing;
				backing = next === null ? undefined : await diskBeneath(repository, beneath.point, beneath.disk, next);
			}
		}
		const backingFile = backing ? backingFileName(backing.point.id, backing.disk.file) : null;
		links.unshift({point: upper, disk: stored, file, backingFile});
		if (!backing) break;
		beneath = backing;
		[upper, stored] = [beneath.point, beneath.disk];
	}
	const knownBy = unsettled.length > 0 || links.some(link => link.disk.sha256 === null) ? 'content' : 'files';
	return {links: links as [DiskLink, ...DiskLink[]], knownBy, unsettled};
}

interface Beneath {
	readonly point: Point;
	readonly disk: StoredDisk;
}

async function diskBeneath(repository: Repository, child: Point, disk: StoredDisk, backing: string): Promise<Beneath> {
	const needs = `point ${child.id} of ${child.manifest.vm} needs point ${backing} for ${disk.name}`;
	let point: Point;
	try {
		point = await readStored(repository, child.manifest.vm, backing);
	} catch (cause) {
		if (!(cause instanceof QuiesceError) || cause.code !== 'DAMAGED') throw cause;
		const isMissing = errnoOf(cause.cause) === 'ENOENT';
		throw new QuiesceError('DAMAGED', `${needs}, which ${isMissing ? 'is missing' : `is damaged: ${cause.message}`}`, {
			cause,
		});
	}
	const beneath = point.manifest.disks.find(({name}) => name === disk.name);
	if (!beneath) throw new QuiesceError('DAMAGED', `${needs}, which lacks that disk`);
	return {point, disk: beneath};
}

/** The point into whose image that of this one is being merged, or was when the program that did so died. */
export async function mergingInto({point, disk}: Beneath): Promise<string | undefined> {
	const file = path.join(point.folder, mergingFileName(disk.file));
	try {
		return parseDocument(mergingSchema, MERGING_FORMAT, await readDocument(file), file).into;
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw error;
	}
}

/** Whether no merge into any disk of the point has begun and not ended. Until then its documents may not be of one mind. */
export async function isSettled(repository: Repository, point: Point): Promise<boolean> {
	for (const disk of point.manifest.disks) {
		if (disk.backing === null) continue;
		try {
			if ((await mergingInto(await diskBeneath(repository, point, disk, disk.backing))) === point.id) return false;
		} catch (error) {
			if (!(error instanceof QuiesceError) || error.code !== 'DAMAGED') throw error;
		}
	}
	return true;
}

/** The text of a merge's note. */
export function mergingNote(into: string): object {
	return {format: MERGING_FORMAT, into};
}

/** Why nothing can be based on the image of a disk, as far as can be told without reading it all. */
export async function problemOf(chain: DiskChain): Promise<string | undefined> {
	for (const {file, disk, backingFile} of chain.links) {
		try {
			const {size} = await fs.stat(file);
			if (chain.knownBy === 'files' && size !== disk.storedBytes) {
				return `${file} has ${size} bytes and should have ${disk.storedBytes}`;
			}
			const header = await readQcow2Header(file);
			if (header.backingFile !== backingFile || header.dataFile === 'external') return `${file} names other files`;
			if (header.state === 'marked-corrupt') return `${file} is marked as corrupt`;
			if (header.sizeBytes !== disk.sizeBytes) return `${file} holds ${header.sizeBytes} bytes, not ${disk.sizeBytes}`;
		} catch (error) {
			if (errnoOf(error) === 'ENOENT') return `${file} is missing`;
			if (error instanceof QuiesceError && error.code === 'DAMAGED') return error.message;
			throw error;
		}
	}
	return undefined;
}
