import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {readQcow2Header} from '../images/qcow2-header.ts';
import {fileError, isThere} from './durable-files.ts';
import {removePoint} from './expire-point.ts';
import {isImageFileName, pointOfBackingFile} from './layout.ts';
import {mergeImages, type MergeStep, noteOf, removeStaleNotes} from './merge-images.ts';
import type {StoredDisk} from './manifest.ts';
import {listStored, type StoredPoint, type StoredPoints} from './points.ts';
import type {Merge} from './record-merge.ts';
import type {Repository} from './repository.ts';

interface MergeNames {
	/** The point that is to go. */
	readonly point: string;
	/** The one whose image of the disk lies on that. */
	readonly into: string;
	readonly disk: string;
}

export type ConsolidationMessage =
	| ({readonly kind: 'merging'} & MergeNames)
	| ({
			readonly kind: 'progress';
			readonly step: MergeStep;
			readonly bytesDone: number;
			readonly bytesTotal: number;
	  } & MergeNames)
	| ({readonly kind: 'merged'; readonly bytesFreed: number} & MergeNames)
	/** All stays as it is, and can be restored; the next consolidation tries again. */
	| ({readonly kind: 'not-merged'; readonly reason: 'damaged' | 'failed'; readonly why: string} & MergeNames)
	| {readonly kind: 'removed'; readonly point: string; readonly bytesFreed: number}
	/** An expired point that stays, invisible, since the images of others lie on it. */
	| {readonly kind: 'hidden'; readonly point: string; readonly dependents: readonly string[]};

/**
 * Removes the expired points of a VM that nothing lies on, and merges the images of those that just one point needs into
 * its own. Goes on with what an interrupted one has left. Throws only what says nothing about one merge. To be called by the holder of
 * the lock on the VM's points.
 */
export async function consolidate(
	repository: Repository,
	vm: string,
	tell: (message: ConsolidationMessage) => void,
	signal?: AbortSignal,
): Promise<void> {
	const failed = new Set<string>();
	const trusted = new Set<string>();
	for (;;) {
		signal?.throwIfAborted();
		const stored = await Dependents.read(repository, vm);
		const removable = stored.expired.filter(({id}) => !stored.isNeeded(id));
		for (const point of removable) {
			const bytesFreed = await removePoint(point);
			tell({kind: 'removed', point: point.id, bytesFreed});
		}
		// What these lay on may have become removable.
		if (removable.length > 0) continue;
		const [merge] = (await stored.merges()).filter(one => !failed.has(keyOf(one)));
		if (!merge) {
			for (const {id} of stored.expired) tell({kind: 'hidden', point: id, dependents: stored.dependentsOf(id)});
			return;
		}
		const isNext = stored.isMergedNext(merge);
		if (!(await mergeOne(repository, merge, isNext ? 'omit' : 'make', trusted, tell, signal))) failed.add(keyOf(merge));
	}
}

/** The points that have an image which lies on one of the point's, whether its document can be read or not. */
export async function dependentsOf(repository: Repository, vm: string, id: string): Promise<readonly string[]> {
	return (await Dependents.read(repository, vm)).dependentsOf(id);
}

async function mergeOne(
	repository: Repository,
	merge: Merge,
	checksum: 'make' | 'omit',
	trusted: Set<string>,
	tell: (message: ConsolidationMessage) => void,
	signal?: AbortSignal,
): Promise<boolean> {
	const names = {point: merge.lower.id, into: merge.upper.id, disk: merge.disk};
	tell({kind: 'merging', ...names});
	try {
		const bytesFreed = await mergeImages(repository, merge, {
			...{signal, checksum, trusted},
			onProgress: (step, bytesDone, bytesTotal) => {
				tell({kind: 'progress', ...names, step, bytesDone, bytesTotal});
			},
		});
		tell({kind: 'merged', ...names, bytesFreed});
		return true;
	} catch (error) {
		signal?.throwIfAborted();
		if (!(error instanceof QuiesceError) && errnoOf(error) === undefined) throw error;
		const {code, message: why} = fileError('merge', merge.lower.folder, error);
		const isDamaged = code === 'DAMAGED' || ['ENOENT', 'ELOOP', 'EIO'].includes(errnoOf(error) ?? '');
		tell({kind: 'not-merged', ...names, reason: isDamaged ? 'damaged' : 'failed', why});
		return false;
	}
}

function keyOf({lower, upper, disk}: Merge): string {
	return JSON.stringify([lower.id, upper.id, disk]);
}

/** Which images of a VM's points lie on which. */
class Dependents {
	/** Oldest first. */
	readonly expired: readonly (Pick<StoredPoint, 'id' | 'folder'> & Partial<StoredPoint>)[];
	readonly #readable: readonly StoredPoint[];
	/** Of points whose documents cannot be read, by what their images name: each with those that it lies on. */
	readonly #claims: ReadonlyMap<string, ReadonlySet<string>>;

	private constructor({readable, unreadable}: StoredPoints, claims: ReadonlyMap<string, ReadonlySet<string>>) {
		this.#readable = readable;
		this.#claims = claims;
		this.expired = [...readable, ...unreadable].filter(({state}) => state === 'expired');
	}

	static async read(repository: Repository, vm: string): Promise<Dependents> {
		const stored = await listStored(repository, vm);
		const claims = new Map<string, ReadonlySet<string>>();
		for (const {id, folder} of stored.unreadable) claims.set(id, await namedBeneath(folder));
		return new Dependents(stored, claims);
	}

	/** The points that have an image which lies on one of the point's, of that disk or of any. */
	dependentsOf(id: string, disk?: string): string[] {
		return [...this.#lyingOn(id, disk).map(point => point.id), ...this.#claimantsOf(id)];
	}

	isNeeded(id: string): boolean {
		return this.dependentsOf(id).length > 0;
	}

	/** What can be merged, oldest first, but before all that what has been begun. */
	async merges(): Promise<Merge[]> {
		const begun: Merge[] = [];
		const rest: Merge[] = [];
		for (const lower of this.#readable.filter(({state}) => state === 'expired')) {
			await removeStaleNotes(lower, ({name}) => this.dependentsOf(lower.id, name).length > 0);
			if (this.#claimantsOf(lower.id).length > 0) continue;
			for (const disk of lower.manifest.disks) {
				const [upper, ...others] = this.#lyingOn(lower.id, disk.name);
				if (!upper || others.length > 0 || (await this.#isBeingMergedInto(disk))) continue;
				const list = (await isThere(noteOf(lower, disk))) ? begun : rest;
				list.push({lower, upper, disk: disk.name});
			}
		}
		return [...begun, ...rest];
	}

	/** Whether what a merge makes is itself to be merged into another one. */
	isMergedNext({upper, disk}: Merge): boolean {
		return upper.state === 'expired' && this.dependentsOf(upper.id, disk).length === 1;
	}

	/** Then what lies beneath is not what its checksum says, and its note tells so only to those who read this one above it. */
	async #isBeingMergedInto({name, backing}: StoredDisk): Promise<boolean> {
		const lower = this.#readable.find(point => point.id === backing);
		const disk = lower?.manifest.disks.find(candidate => candidate.name === name);
		return lower !== undefined && disk !== undefined && isThere(noteOf(lower, disk));
	}

	#lyingOn(id: string, disk: string | undefined): StoredPoint[] {
		return this.#readable.filter(({manifest}) =>
			manifest.disks.some(({name, backing}) => backing === id && (disk === undefined || name === disk)),
		);
	}

	#claimantsOf(id: string): string[] {
		return [...this.#claims].filter(([, beneath]) => beneath.has(id)).map(([claimant]) => claimant);
	}
}

/** The points that the images in a folder name as what they lie on. */
async function namedBeneath(folder: string): Promise<ReadonlySet<string>> {
	const named = new Set<string>();
	for (const name of (await fs.readdir(folder)).filter(isImageFileName)) {
		try {
			const {backingFile} = await readQcow2Header(path.join(folder, name));
			const point = backingFile === null ? undefined : pointOfBackingFile(backingFile);
			if (point !== undefined) named.add(point);
		} catch (error) {
			const isLost = error instanceof QuiesceError && error.code === 'DAMAGED';
			// Nobody can make anything of it, whatever it lies on.
			if (!isLost && !['ELOOP', 'ENOENT'].includes(errnoOf(error) ?? '')) throw fileError('read', name, error);
		}
	}
	return named;
}
