import fs from 'node:fs/promises';
import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {writersOf} from '../host/writers.ts';
import {commitImage} from '../images/commit-image.ts';
import {CLUSTER_BYTES} from '../images/hash-records.ts';
import {checkImage, freeLeaks} from '../images/qemu-img.ts';
import {requireNoForeignFiles} from '../images/qcow2-header.ts';
import {mergeHashes, readHashes} from './content-hashes.ts';
import {type DiskChain, mergingInto, mergingNote, readDiskChain} from './disk-chain.ts';
import {formatDocument} from './document.ts';
import {isThere, replaceBy, replaceDurably, syncFile, syncFolder} from './durable-files.ts';
import {fileBytes} from './expire-point.ts';
import {MACHINE_FILE, mergingFileName} from './layout.ts';
import type {StoredDisk} from './manifest.ts';
import type {StoredPoint} from './points.ts';
import {type Merge, recordMerge, type RecordOptions} from './record-merge.ts';
import type {Repository} from './repository.ts';
import {contentProblem, holdsStored} from './verify-content.ts';
import {verifyFiles} from './verify-point.ts';

export type MergeStep = 'checking' | 'merging' | 'comparing' | 'hashing';

export interface MergeOptions extends Pick<RecordOptions, 'checksum'> {
	/** Aborting leaves all readable; the next merge of the two goes on. */
	readonly signal?: AbortSignal | undefined;
	readonly onProgress: (step: MergeStep, bytesDone: number, bytesTotal: number) => void;
	/** Images that were just made and need not be read to be trusted; the merged one is added. */
	readonly trusted: Set<string>;
}

/** Both of one disk. */
interface Two {
	readonly base: StoredDisk;
	readonly baseFile: string;
	readonly baseHashes: string;
	readonly tip: StoredDisk;
	readonly tipFile: string;
	readonly tipHashes: string;
	readonly note: string;
	/** `begun`: the base may have something of the tip already. `moved`: it has taken the tip's place. */
	readonly state: 'apart' | 'begun' | 'moved';
	readonly chain: DiskChain;
}

/**
 * Puts the image of `lower` in the place of that of `upper`, with what the latter stores written in, so that nothing needs
 * `lower` any more. Costs what `upper` stores, and the reading of both. To be repeated if it was interrupted: it goes on. At every moment
 * `upper`, and what lies on it, is read as before: what it stores stays in its own image until the other one has all of it.
 * Returns the bytes that are free now. Throws `DAMAGED` and changes nothing if one of the images is not sound.
 */
export async function mergeImages(repository: Repository, merge: Merge, options: MergeOptions): Promise<number> {
	const {lower, upper} = merge;
	const two = await look(repository, merge);
	const {baseFile, baseHashes, tip, tipFile, tipHashes, note, state} = two;
	const before = (state === 'moved' ? 0 : await fileBytes(baseFile)) + (await fileBytes(tipFile));
	if (state !== 'moved') {
		await requireNoWriter(baseFile, tipFile);
		await requireMergeable(merge, two, options);
		await requireSpace(two);
		if (state === 'apart') await replaceDurably(note, formatDocument(mergingNote(upper.id)));
		await writeTipIntoBase(two, options);
		// Before the image: of the one as of the other they say, together with those beneath, what it shows.
		await replaceBy(tipHashes, merged =>
			mergeHashes({base: baseHashes, tip: tipHashes, merged}, tip.sizeBytes, 'record'),
		);
		await fs.rename(baseFile, tipFile);
		await syncFolder(upper.folder);
		await syncFolder(lower.folder);
	}
	await recordMerge(merge, {
		...options,
		onProgress: (bytes, total) => {
			options.onProgress('hashing', bytes, total);
		},
	});
	options.trusted.add(tipFile);
	await fs.rm(note);
	await syncFolder(lower.folder);
	return before - (await fileBytes(tipFile));
}

/** The note of a merge that was completed, or whose upper point has gone, says nothing any more. */
export async function removeStaleNotes(point: StoredPoint, isNeeded: (disk: StoredDisk) => boolean): Promise<void> {
	for (const disk of point.manifest.disks) {
		if (isNeeded(disk) || !(await isThere(noteOf(point, disk)))) continue;
		await fs.rm(noteOf(point, disk));
		await syncFolder(point.folder);
	}
}

/** Where it is told that the image of a disk is being merged into that of another point. */
export function noteOf({folder}: Pick<StoredPoint, 'folder'>, {file}: Pick<StoredDisk, 'file'>): string {
	return path.join(folder, mergingFileName(file));
}

async function look(repository: Repository, {lower, upper, disk: name}: Merge): Promise<Two> {
	const [base, tip] = [lower, upper].map(point => point.manifest.disks.find(disk => disk.name === name));
	if (!base || !tip) throw new QuiesceError('DAMAGED', `${lower.id} or ${upper.id} lacks the disk ${name}`);
	if (base.hashes === null || tip.hashes === null) {
		throw new QuiesceError('FAILED', `what ${name} holds at ${lower.id} or ${upper.id} is not known by hashes`);
	}
	const into = await mergingInto({point: lower, disk: base});
	if (into !== undefined && into !== upper.id) {
		throw new QuiesceError('DAMAGED', `${name} of ${lower.id} has in part become that of ${into}`);
	}
	const chain = await readDiskChain(repository, upper, tip);
	const isApart = chain.links.some(({point}) => point.id === lower.id);
	return {
		base,
		baseFile: path.join(lower.folder, base.file),
		baseHashes: path.join(lower.folder, base.hashes),
		tip,
		tipFile: path.join(upper.folder, tip.file),
		tipHashes: path.join(upper.folder, tip.hashes),
		note: noteOf(lower, base),
		state: into === undefined ? 'apart' : isApart ? 'begun' : 'moved',
		chain,
	};
}

/** QEMU's tool outlives us when we are killed. Its locks are not known to every file system. */
async function requireNoWriter(...files: readonly string[]): Promise<void> {
	for (const [file, {pid, name}] of await writersOf(files, [])) {
		throw new QuiesceError('FAILED', `${file} is being written to by process ${pid} (${name})`, {
			hint: 'A killed run may have left it. Wait for its end, and prune again.',
		});
	}
}

async function requireMergeable(
	{lower, upper}: Merge,
	{base, tip, state, chain}: Two,
	{signal, onProgress, trusted}: MergeOptions,
): Promise<void> {
	for (const {file, disk, backingFile} of chain.links) {
		const header = await requireNoForeignFiles(file, backingFile);
		if (header.state === 'marked-corrupt') throw new QuiesceError('DAMAGED', `${file} is marked as corrupt`);
		if (header.sizeBytes !== disk.sizeBytes) {
			throw new QuiesceError('DAMAGED', `${file} holds ${header.sizeBytes} bytes, not ${disk.sizeBytes}`);
		}
	}
	const fresh = [
		{point: lower, disk: base},
		{point: upper, disk: tip},
	].filter(({point, disk}) => !trusted.has(path.join(point.folder, disk.file)));
	const bytesTotal = fresh.reduce((sum, {disk}) => sum + disk.storedBytes, 0);
	const tell = (bytes: number): void => {
		onProgress('checking', bytes, bytesTotal);
	};
	if (state === 'apart') {
		let before = 0;
		for (const {point, disk} of fresh) {
			const onBytes = (file: string, bytes: number): void => {
				if (file === path.join(point.folder, disk.file)) tell(before + bytes);
			};
			const {problems} = await verifyFiles(point, [disk], {signal, onProgress: onBytes});
			const [first] = problems.filter(({file}) => file !== MACHINE_FILE);
			if (first) throw new QuiesceError('DAMAGED', `${path.join(point.folder, first.file)}: ${first.problem}`);
			before += disk.storedBytes;
		}
		if (fresh.every(({disk}) => disk.sha256 !== null)) return;
	}
	const onProgressOfDisk = (_: string, bytes: number): void => {
		onProgress('checking', bytes, tip.sizeBytes);
	};
	const problem = await contentProblem(chain, {signal, onProgress: onProgressOfDisk});
	if (problem !== undefined) throw new QuiesceError('DAMAGED', `${chain.links.at(-1)?.file ?? ''}: ${problem}`);
}

/** What is written is not compressed. A full file system would be of no use to the next backup. */
async function requireSpace({base, baseFile, tip, tipHashes}: Two): Promise<void> {
	let bytes = 0;
	for await (const {clusters, content} of readHashes(tipHashes, tip.sizeBytes)) {
		if (content !== 'zero') bytes += clusters * CLUSTER_BYTES;
	}
	// What an interrupted merge has written is written over.
	bytes -= Math.max(0, (await fs.stat(baseFile)).size - base.storedBytes);
	const {bavail, bsize} = await fs.statfs(path.dirname(baseFile));
	if (bavail * bsize >= bytes) return;
	throw new QuiesceError('FAILED', `not enough space to merge: ${bytes} bytes are needed, ${bavail * bsize} free`);
}

async function writeTipIntoBase(
	{baseFile, tip, tipFile, tipHashes}: Two,
	{signal, onProgress}: MergeOptions,
): Promise<void> {
	const bytesTotal = tip.storedBytes;
	await commitImage(tipFile, {
		signal,
		onProgress: done => {
			onProgress('merging', done * bytesTotal, bytesTotal);
		},
	});
	const {problems, warnings} = await checkImage(baseFile, 'qcow2', signal);
	if (problems[0] !== undefined) throw new QuiesceError('DAMAGED', `${baseFile}: ${problems[0]}`);
	if (warnings.length > 0) await freeLeaks(baseFile, signal);
	await syncFile(baseFile);
	const isAlike = await holdsStored(baseFile, tipHashes, tip.sizeBytes, {
		signal,
		onProgress: (_, bytes) => {
			onProgress('comparing', bytes, tip.sizeBytes);
		},
	});
	if (!isAlike) throw new QuiesceError('DAMAGED', `${baseFile} has not become what ${tipFile} shows`);
}
