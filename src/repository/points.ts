import fs from 'node:fs/promises';
import path from 'node:path';
import {asError, errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {fileError, isThere, readDocument} from './durable-files.ts';
import {
	decodeVmName,
	EXPIRED_FILE,
	MACHINE_FILE,
	MANIFEST_FILE,
	pointFolder,
	PROTECTED_FILE,
	vmFolder,
	VMS_FOLDER,
} from './layout.ts';
import {type Machine, parseMachine} from './machine.ts';
import {parseManifest, type PointManifest} from './manifest.ts';
import {comparePointIds, isPointId} from './point-id.ts';
import type {Repository} from './repository.ts';

/** A finished point. Its files may have been damaged since. */
export interface Point {
	readonly id: string;
	readonly folder: string;
	readonly manifest: PointManifest;
	/** Whether no rule is to remove it. */
	readonly isProtected: boolean;
}

/** A point as it is found: `damaged` if not even its manifest can be read, for `reason`. */
export type ListedPoint =
	| ({readonly state: 'readable'} & Point)
	| {
			readonly state: 'damaged';
			readonly id: string;
			readonly folder: string;
			readonly reason: string;
			readonly isProtected: boolean;
	  };

const NAMED_AT_MOST = 5;

/** The VMs that have a folder, by name. */
export async function listVms(repository: Repository): Promise<readonly string[]> {
	const folders = await foldersIn(path.join(repository.path, VMS_FOLDER));
	return folders.flatMap(folder => decodeVmName(folder) ?? []).sort();
}

/** The finished points of a VM, oldest first; none if the VM is unknown. */
export async function listPoints(repository: Repository, vm: string): Promise<readonly ListedPoint[]> {
	const points: ListedPoint[] = [];
	for (const id of await pointIds(repository, vm)) {
		try {
			points.push({state: 'readable', ...(await load(repository, vm, id))});
		} catch (error) {
			if (!(error instanceof QuiesceError) || error.code !== 'DAMAGED') throw error;
			const folder = pointFolder(repository.path, vm, id);
			const isProtected = await isThere(path.join(folder, PROTECTED_FILE));
			points.push({state: 'damaged', id, folder, reason: error.message, isProtected});
		}
	}
	return points;
}

/** Reads the point of this very id. Throws `DAMAGED` if its manifest cannot be read, or is another point's. */
export async function readPoint(repository: Repository, vm: string, id: string): Promise<Point> {
	if (!(await pointIds(repository, vm)).includes(id)) throw await unknownPoint(repository, vm, id);
	return load(repository, vm, id);
}

async function load(repository: Repository, vm: string, id: string, document = MANIFEST_FILE): Promise<Point> {
	const folder = pointFolder(repository.path, vm, id);
	const file = path.join(folder, document);
	const manifest = parseManifest(await readOf(file), file);
	if (manifest.id !== id || manifest.vm !== vm) {
		throw new QuiesceError('DAMAGED', `${file} is that of another point: ${manifest.id} of ${manifest.vm}`);
	}
	return {id, folder, manifest, isProtected: await isThere(path.join(folder, PROTECTED_FILE))};
}

/** What is needed to start the point's VM again. Throws `DAMAGED` if it cannot be read. */
export async function readMachine(point: Point): Promise<Machine> {
	const file = path.join(point.folder, MACHINE_FILE);
	return parseMachine(await readOf(file), file);
}

/** The point that is meant by an id or its unique beginning; the newest if none is given. */
export async function resolvePoint(repository: Repository, vm: string, asked?: string): Promise<Point> {
	const ids = await pointIds(repository, vm);
	const matching = asked === undefined ? ids.slice(-1) : ids.filter(id => id === asked);
	const found = matching.length > 0 || !asked ? matching : ids.filter(id => id.startsWith(asked));
	const [id] = found;
	if (id === undefined) throw await unknownPoint(repository, vm, asked);
	if (found.length > 1) {
		throw new UsageError(`several points of ${vm} begin with '${asked ?? ''}': ${newest(found)}`);
	}
	return load(repository, vm, id);
}

/** All that an image can lie on, oldest first. */
export interface StoredPoints {
	readonly readable: readonly StoredPoint[];
	/** Those of which not even the document can be read. */
	readonly unreadable: readonly Pick<StoredPoint, 'id' | 'folder' | 'state'>[];
}

/** A point that may have ceased to be visible, since it is to go and others still need its images. */
export interface StoredPoint extends Point {
	readonly state: 'visible' | 'expired';
}

/** The visible points and those that are to go. */
export async function listStored(repository: Repository, vm: string): Promise<StoredPoints> {
	const readable: StoredPoint[] = [];
	const unreadable: Pick<StoredPoint, 'id' | 'folder' | 'state'>[] = [];
	for (const id of (await foldersIn(vmFolder(repository.path, vm))).filter(isPointId).sort(comparePointIds)) {
		try {
			readable.push(await readStored(repository, vm, id));
		} catch (error) {
			if (!(error instanceof QuiesceError) || error.code !== 'DAMAGED') throw error;
			const folder = pointFolder(repository.path, vm, id);
			unreadable.push({id, folder, state: (await isThere(path.join(folder, EXPIRED_FILE))) ? 'expired' : 'visible'});
		}
	}
	return {readable, unreadable};
}

/** Throws `DAMAGED` if there is no such point, visible or not, or if its document cannot be read. */
export async function readStored(repository: Repository, vm: string, id: string): Promise<StoredPoint> {
	const folder = pointFolder(repository.path, vm, id);
	if (await isThere(path.join(folder, EXPIRED_FILE))) {
		return {state: 'expired', ...(await load(repository, vm, id, EXPIRED_FILE))};
	}
	return {state: 'visible', ...(await load(repository, vm, id))};
}

async function pointIds(repository: Repository, vm: string): Promise<readonly string[]> {
	const ids = (await foldersIn(vmFolder(repository.path, vm))).filter(isPointId).sort(comparePointIds);
	const expired = await Promise.all(
		ids.map(id => isThere(path.join(pointFolder(repository.path, vm, id), EXPIRED_FILE))),
	);
	return ids.filter((_, index) => expired[index] !== true);
}

/** Real folders only: a link might lead out of the repository. */
async function foldersIn(folder: string): Promise<readonly string[]> {
	try {
		if (!(await fs.lstat(folder)).isDirectory()) return [];
		const entries = await fs.readdir(folder, {withFileTypes: true});
		return entries.filter(entry => entry.isDirectory()).map(({name}) => name);
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return [];
		throw fileError('read', folder, error);
	}
}

/** What the system does not let us read is damage, unless we merely lack the right to. */
async function readOf(file: string): Promise<string> {
	try {
		return await readDocument(file);
	} catch (error) {
		const failure = fileError('read', file, error);
		if (['EACCES', 'EPERM'].includes(errnoOf(error) ?? '')) throw failure;
		throw new QuiesceError('DAMAGED', asError(failure).message, {cause: error});
	}
}

async function unknownPoint(repository: Repository, vm: string, asked: string | undefined): Promise<UsageError> {
	const ids = await pointIds(repository, vm);
	if (ids.length > 0) {
		return new UsageError(`${vm} has no point '${asked ?? ''}'`, {hint: `Its newest points: ${newest(ids)}`});
	}
	const vms = await listVms(repository);
	return new UsageError(`the repository ${repository.path} has no point of ${vm}`, {
		hint: vms.length > 0 ? `It has points of: ${vms.join(', ')}` : 'It is empty.',
	});
}

function newest(ids: readonly string[]): string {
	const named = ids.slice(-NAMED_AT_MOST).reverse().join(', ');
	return ids.length > NAMED_AT_MOST ? `${named} and ${ids.length - NAMED_AT_MOST} older` : named;
}
