import fs from 'node:fs/promises';
import path from 'node:path';
import {asError, errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {systemReason} from '../images/plain-file.ts';
import {checkImage, imageInfo} from '../images/qemu-img.ts';
import {requireNoForeignFiles} from '../images/qcow2-header.ts';
import {readDocument} from './durable-files.ts';
import {type HashOptions, hashFiles} from './hash-file.ts';
import {backingFileName, MACHINE_FILE, MANIFEST_FILE, SUMS_FILE} from './layout.ts';
import type {StoredDisk} from './manifest.ts';
import {type Point, readMachine, readPoint} from './points.ts';
import type {Repository} from './repository.ts';
import {parseSums} from './sums.ts';

export interface FileProblem {
	/** In the point's folder. */
	readonly file: string;
	/** Why, for people. */
	readonly problem: string;
}

/** What was found at a point; it is sound if it has no problems. */
export interface PointVerification {
	readonly point: string;
	readonly problems: readonly FileProblem[];
	/** What wastes space and loses nothing. */
	readonly warnings: readonly FileProblem[];
	readonly bytesRead: number;
}

/**
 * Checks all that can be told of a point by its files: documents, sizes, checksums and the images' structure. Damage is
 * the result and not thrown; `vm` and `id` must name a point. A point may need its parents, which are checked
 * by themselves.
 */
export async function verifyPoint(
	repository: Repository,
	vm: string,
	id: string,
	options: HashOptions = {},
): Promise<PointVerification> {
	let point: Point;
	try {
		point = await readPoint(repository, vm, id);
	} catch (error) {
		return {point: id, problems: [{file: MANIFEST_FILE, problem: damageOf(error)}], warnings: [], bytesRead: 0};
	}
	const {manifest} = point;
	const parent = await parentOf(repository, point);
	const {problems, bytesRead} = await verifyFiles(point, manifest.disks, options);
	if (typeof parent === 'string') problems.push({file: MANIFEST_FILE, problem: parent});
	const warnings: FileProblem[] = [];
	const broken = new Set(problems.map(({file}) => file));
	for (const disk of manifest.disks) {
		if (broken.has(disk.file) || typeof parent === 'string') continue;
		const {problems: found, warnings: wasted} = await verifyImage(point, parent, disk, options.signal);
		problems.push(...found.map(problem => ({file: disk.file, problem})));
		warnings.push(...wasted.map(problem => ({file: disk.file, problem})));
	}
	return {point: id, problems, warnings, bytesRead};
}

/** Checks the documents of a point, and the sizes and checksums of the images of `disks`; opens none. */
export async function verifyFiles(
	point: Point,
	disks: readonly StoredDisk[],
	options: HashOptions,
): Promise<{problems: FileProblem[]; bytesRead: number}> {
	const problems: FileProblem[] = [];
	const report = (file: string, problem: string) => void problems.push({file, problem});
	const sums = await sumsOf(point).catch((error: unknown) => {
		report(SUMS_FILE, damageOf(error));
		return undefined;
	});
	await readMachine(point).catch((error: unknown) => {
		report(MACHINE_FILE, damageOf(error));
	});
	const wanted = new Map<string, string | undefined>([
		[MANIFEST_FILE, sums?.get(MANIFEST_FILE)],
		[MACHINE_FILE, sums?.get(MACHINE_FILE)],
	]);
	for (const disk of disks) {
		if (sums?.has(disk.file) && sums.get(disk.file) !== disk.sha256) {
			report(SUMS_FILE, `it and ${MANIFEST_FILE} disagree on ${disk.file}`);
		}
		const problem = await sizeProblem(path.join(point.folder, disk.file), disk.storedBytes);
		if (problem === undefined) wanted.set(disk.file, disk.sha256);
		else report(disk.file, problem);
	}
	for (const file of problems.map(({file}) => file)) if (file === MACHINE_FILE) wanted.delete(file);
	const hashes = await hashFiles(
		[...wanted.keys()].map(file => path.join(point.folder, file)),
		options,
	);
	let bytesRead = 0;
	for (const [file, sha256] of wanted) {
		const hash = hashes.get(path.join(point.folder, file));
		if (hash instanceof Error) report(file, damageOf(hash));
		else if (hash && sha256 !== undefined && hash.sha256 !== sha256) report(file, 'its checksum is wrong');
		if (hash && !(hash instanceof Error)) bytesRead += hash.bytes;
	}
	return {problems, bytesRead};
}

/** How the parent's image of the same disk is called from a point's folder; null if the disk's image stands alone. */
export function backingOf(parent: Point | undefined, disk: StoredDisk): string | null {
	const beneath = parent?.manifest.disks.find(({name}) => name === disk.name);
	return parent && beneath ? backingFileName(parent.id, beneath.file) : null;
}

async function verifyImage(point: Point, parent: Point | undefined, disk: StoredDisk, signal?: AbortSignal) {
	const file = path.join(point.folder, disk.file);
	try {
		await requireNoForeignFiles(file, backingOf(parent, disk));
		const {virtualSizeBytes, state} = await imageInfo(file, 'qcow2', signal);
		const {problems, warnings} = await checkImage(file, 'qcow2', signal);
		const found = [...problems];
		if (state === 'marked-corrupt') found.push('QEMU has marked it as corrupt');
		if (virtualSizeBytes !== disk.sizeBytes) {
			found.push(`it holds a disk of ${virtualSizeBytes} bytes; ${MANIFEST_FILE} says ${disk.sizeBytes}`);
		}
		return {problems: found, warnings};
	} catch (error) {
		signal?.throwIfAborted();
		if (error instanceof QuiesceError && error.code === 'DAMAGED') return {problems: [error.message], warnings: []};
		throw error;
	}
}

/** SHA256SUMS, which must list the files of the point and no others. */
async function sumsOf({folder, manifest}: Point): Promise<ReadonlyMap<string, string>> {
	const file = path.join(folder, SUMS_FILE);
	const sums = parseSums(await readDocument(file), file);
	const due = [MANIFEST_FILE, MACHINE_FILE, ...manifest.disks.map(disk => disk.file)];
	const missing = due.filter(name => !sums.has(name));
	const strange = [...sums.keys()].filter(name => !due.includes(name));
	if (missing.length > 0) throw new QuiesceError('DAMAGED', `it does not list ${missing.join(', ')}`);
	if (strange.length > 0) throw new QuiesceError('DAMAGED', `it lists ${strange.join(', ')}, not part of the point`);
	return sums;
}

async function parentOf(repository: Repository, {manifest}: Point): Promise<Point | undefined | string> {
	if (manifest.parent === null) return undefined;
	try {
		return await readPoint(repository, manifest.vm, manifest.parent);
	} catch (error) {
		return error instanceof UsageError ? `its parent ${manifest.parent} is missing` : damageOf(error);
	}
}

async function sizeProblem(file: string, bytes: number): Promise<string | undefined> {
	try {
		const stat = await fs.lstat(file);
		if (!stat.isFile()) return 'it is not a regular file';
		return stat.size === bytes ? undefined : `it has ${stat.size} bytes and should have ${bytes}`;
	} catch (error) {
		return damageOf(error);
	}
}

/** What is wrong with a file; throws what says nothing about the file. */
function damageOf(error: unknown): string {
	if (error instanceof QuiesceError) {
		if (error.code === 'DAMAGED') return error.message;
		throw error;
	}
	if (errnoOf(error) === 'ENOENT') return 'it is missing';
	if (errnoOf(error) === undefined || ['EACCES', 'EPERM', 'EMFILE', 'ENFILE'].includes(errnoOf(error) ?? '')) {
		throw asError(error);
	}
	return systemReason(error);
}
