import fs from 'node:fs/promises';
import path from 'node:path';
import {asError, errnoOf, QuiesceError} from '../errors.ts';
import {systemReason} from '../images/plain-file.ts';
import {checkImage, imageInfo} from '../images/qemu-img.ts';
import {requireNoForeignFiles} from '../images/qcow2-header.ts';
import {type DiskChain, type DiskLink, isSettled, readDiskChain} from './disk-chain.ts';
import {readDocument} from './durable-files.ts';
import {type HashOptions, hashFiles} from './hash-file.ts';
import {EXPIRED_FILE, MACHINE_FILE, MANIFEST_FILE, SUMS_FILE} from './layout.ts';
import {isUnproved, type StoredDisk} from './manifest.ts';
import {type Point, readMachine, readPoint, type StoredPoint} from './points.ts';
import type {Repository} from './repository.ts';
import {parseSums} from './sums.ts';
import {contentProblem} from './verify-content.ts';

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
	/** What is no damage, but is to be known. */
	readonly warnings: readonly FileProblem[];
	readonly bytesRead: number;
}

export interface VerifyPointOptions extends HashOptions {
	/** Compare what the guest would see with the hashes of what it saw, also where the files' checksums vouch for it. */
	readonly depth?: 'files' | 'content' | undefined;
	/** Images of other points that were found sound or not already: one that many lie on is read once. */
	readonly known?: Map<string, string | undefined> | undefined;
}

/**
 * Checks all that can be told of a point: documents, sizes, checksums, the images' structure, and the images of other
 * points that its own lie on. Damage is the result and not thrown; `vm` and `id` must name a point.
 */
export async function verifyPoint(
	repository: Repository,
	vm: string,
	id: string,
	{depth = 'files', known = new Map(), ...options}: VerifyPointOptions = {},
): Promise<PointVerification> {
	let point: Point;
	try {
		point = await readPoint(repository, vm, id);
	} catch (error) {
		return {point: id, problems: [{file: MANIFEST_FILE, problem: damageOf(error)}], warnings: [], bytesRead: 0};
	}
	const problems: FileProblem[] = [];
	const warnings: FileProblem[] = [];
	const chains = new Map<StoredDisk, DiskChain>();
	for (const disk of point.manifest.disks) {
		try {
			chains.set(disk, await readDiskChain(repository, point, disk));
		} catch (error) {
			problems.push({file: disk.file, problem: damageOf(error)});
		}
	}
	const state = (await isSettled(repository, point)) ? 'settled' : 'unsettled';
	const files =
		state === 'settled' ? await verifyFiles(point, point.manifest.disks, options) : {problems: [], bytesRead: 0};
	problems.push(...files.problems);
	let {bytesRead} = files;
	for (const [disk, chain] of chains) {
		if (problems.some(({file}) => file === disk.file)) continue;
		const unchecked = state === 'settled' ? chain.links.slice(0, -1) : chain.links;
		const how = chain.knownBy === 'files' ? options : 'header';
		let badLinks = 0;
		for (const link of unchecked) {
			// What was only looked at for one chain may be known by its checksum in another.
			const key = how === 'header' ? `header of ${link.file}` : link.file;
			if (!known.has(key)) {
				const {problem, bytes} = await verifyLink(link, how);
				known.set(key, problem);
				bytesRead += bytes;
			}
			const problem = known.get(key);
			if (problem === undefined) continue;
			problems.push({file: path.relative(point.folder, link.file), problem});
			badLinks++;
		}
		if (badLinks > 0) continue;
		const {problems: found, warnings: wasted} = await verifyImage(chain, options.signal);
		problems.push(...found.map(problem => ({file: disk.file, problem})));
		warnings.push(...wasted.map(problem => ({file: disk.file, problem})));
		if (isUnproved(disk)) {
			warnings.push({
				file: disk.file,
				problem: 'it was taken without hashes, so nobody can tell whether it holds what it should',
			});
		}
		if (found.length > 0 || (depth === 'files' && chain.knownBy === 'files')) continue;
		const content = await contentProblem(chain, options);
		if (content !== undefined) problems.push({file: disk.file, problem: content});
	}
	return {point: id, problems, warnings, bytesRead};
}

/** Checks an image of another point: its header, and with `options` its size and checksum. Its documents may have gone. */
export async function verifyLink(
	{file, disk, backingFile}: DiskLink,
	options: HashOptions | 'header',
): Promise<{problem?: string; bytes: number}> {
	try {
		await requireNoForeignFiles(file, backingFile);
		if (options === 'header' || disk.sha256 === null) return {bytes: 0};
		const problem = await sizeProblem(file, disk.storedBytes);
		if (problem !== undefined) return {problem, bytes: 0};
		const hash = (await hashFiles([file], options)).get(file);
		if (!hash || hash instanceof Error) return {problem: damageOf(hash), bytes: 0};
		return hash.sha256 === disk.sha256 ? {bytes: hash.bytes} : {problem: 'its checksum is wrong', bytes: hash.bytes};
	} catch (error) {
		if (options !== 'header') options.signal?.throwIfAborted();
		return {problem: damageOf(error), bytes: 0};
	}
}

/** Checks the documents of a point, and the sizes and checksums of the images of `disks`; opens none. */
export async function verifyFiles(
	point: Point | StoredPoint,
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
	const document = 'state' in point && point.state === 'expired' ? EXPIRED_FILE : MANIFEST_FILE;
	const wanted = new Map<string, string | undefined>([
		[document, sums?.get(MANIFEST_FILE)],
		[MACHINE_FILE, sums?.get(MACHINE_FILE)],
	]);
	for (const {file, sha256, storedBytes, hashes} of disks) {
		if (sha256 !== null && sums?.has(file) && sums.get(file) !== sha256) {
			report(SUMS_FILE, `it and ${MANIFEST_FILE} disagree on ${file}`);
		}
		const problem = await sizeProblem(path.join(point.folder, file), storedBytes);
		if (problem !== undefined) report(file, problem);
		else if (sha256 !== null) wanted.set(file, sha256);
		if (hashes !== null) wanted.set(hashes, sums?.get(hashes));
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

async function verifyImage({links}: DiskChain, signal?: AbortSignal) {
	const {file, disk, backingFile} = links.at(-1) ?? links[0];
	try {
		await requireNoForeignFiles(file, backingFile);
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

/** The files of a disk that SHA256SUMS lists. */
function summedFiles({file, sha256, hashes}: Pick<StoredDisk, 'file' | 'sha256' | 'hashes'>): string[] {
	return [...(sha256 === null ? [] : [file]), ...(hashes === null ? [] : [hashes])];
}

/** SHA256SUMS, which must list the files of the point and no others. */
async function sumsOf({folder, manifest}: Point): Promise<ReadonlyMap<string, string>> {
	const file = path.join(folder, SUMS_FILE);
	const sums = parseSums(await readDocument(file), file);
	const due = [MANIFEST_FILE, MACHINE_FILE, ...manifest.disks.flatMap(summedFiles)];
	const missing = due.filter(name => !sums.has(name));
	const strange = [...sums.keys()].filter(name => !due.includes(name));
	if (missing.length > 0) throw new QuiesceError('DAMAGED', `it does not list ${missing.join(', ')}`);
	if (strange.length > 0) throw new QuiesceError('DAMAGED', `it lists ${strange.join(', ')}, not part of the point`);
	return sums;
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
