import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {formatDocument} from '../repository/document.ts';
import {
	fileError,
	isThere,
	readDocument,
	removeIfEmpty,
	removeTree,
	replaceDurably,
	syncFile,
	syncFolder,
} from '../repository/durable-files.ts';
import {hashFiles} from '../repository/hash-file.ts';
import {MACHINE_FILE, OWNER_FILE, SUMS_FILE} from '../repository/layout.ts';
import type {Machine} from '../repository/machine.ts';
import {thisOwner} from '../repository/owner.ts';
import {formatSums} from '../repository/sums.ts';
import {type Journal, newJournal, parseJournal, type SnapshotPlan} from './journal.ts';
import {MEMORY_FILE, parsePartialFolderName, partialFolderName, SNAPSHOT_FILE} from './layout.ts';
import {
	parseSnapshot,
	SNAPSHOT_FORMAT,
	type SnapshotGroup,
	type SnapshotManifest,
	type SnapshotMemory,
	type VmState,
} from './manifest.ts';
import type {Snapshot} from './snapshots.ts';

/** What is known of a snapshot only after its cut. */
export interface SnapshotCut extends Pick<SnapshotManifest, 'cutAt' | 'consistency' | 'freeze' | 'standstill'> {
	/** Besides those that were planned with. */
	readonly warnings: readonly string[];
	/** Its file is in the partial folder, complete and closed. */
	readonly memory?: SnapshotMemory | undefined;
	readonly vmState?: VmState | undefined;
	/** Undefined for what was announced of it. */
	readonly group?: SnapshotGroup | undefined;
}

/** A snapshot that has no name yet: a hidden folder, until {@link finish} lets it appear whole. */
export class PartialSnapshot {
	readonly folder: string;
	#journal: Journal;

	/** Use {@link createPartialSnapshot} or {@link listPartialSnapshots}. */
	constructor(folder: string, journal: Journal) {
		this.folder = folder;
		this.#journal = journal;
	}

	get plan(): SnapshotPlan {
		return this.#journal.plan;
	}

	get journal(): Journal {
		return this.#journal;
	}

	/** Says, durably, what is known by now: which files have been made. */
	async record(plan: SnapshotPlan): Promise<void> {
		await this.#write({...this.#journal, plan});
	}

	/** Says, durably and before any image is changed, that it is not to appear any more. */
	async beginUndoing(): Promise<void> {
		await this.#write({...this.#journal, undoing: true});
	}

	async #write(journal: Journal): Promise<void> {
		this.#journal = journal;
		await replaceDurably(path.join(this.folder, OWNER_FILE), formatDocument(journal));
	}

	/**
	 * Makes the snapshot appear, once it has been cut. Can be repeated, also by another run. Before it does, all is durable but the
	 * name, and `whenDurable` is waited for, with whose failure it does not appear.
	 */
	async finish(cut: SnapshotCut, whenDurable = (): Promise<void> => Promise.resolve()): Promise<Snapshot> {
		const {warnings, memory = null, vmState = null, group = this.plan.group, ...rest} = cut;
		const {plan} = this;
		const written: SnapshotManifest = {
			...{...plan, ...rest, memory, vmState, group, format: SNAPSHOT_FORMAT, finishedAt: new Date().toISOString()},
			warnings: [...plan.warnings, ...warnings],
		};
		const text = formatDocument(written);
		// What we could not read again is not made visible.
		parseSnapshot(text, SNAPSHOT_FILE);
		if (memory) await syncFile(this.#path(memory.file));
		// What came of it is of no use, and may have filled the disk.
		else await fs.rm(this.#path(MEMORY_FILE), {force: true});
		await replaceDurably(this.#path(SNAPSHOT_FILE), text);
		const files = [MACHINE_FILE, SNAPSHOT_FILE, ...(memory ? [memory.file] : [])];
		const sums = new Map<string, string>();
		for (const [file, hash] of await hashFiles(files.map(file => this.#path(file)))) {
			if (hash instanceof Error) throw fileError('read', file, hash);
			sums.set(path.basename(file), hash.sha256);
		}
		await replaceDurably(this.#path(SUMS_FILE), formatSums(sums));
		await whenDurable();
		await fs.rm(this.#path(OWNER_FILE), {force: true});
		return appear(this.folder);
	}

	#path(file: string): string {
		return path.join(this.folder, file);
	}
}

/** Begins a snapshot in `folder`, durably, before anything else of it is made. Throws if the name is taken. */
export async function createPartialSnapshot(
	folder: string,
	{plan, machine, wants}: {readonly plan: SnapshotPlan; readonly machine: Machine; readonly wants: Journal['wants']},
	now = new Date(),
): Promise<PartialSnapshot> {
	const {name} = plan;
	const partial = path.join(folder, partialFolderName(name));
	try {
		await fs.mkdir(folder, {recursive: true, mode: 0o700});
		await syncFolder(path.dirname(folder));
		await fs.mkdir(partial, {mode: 0o700});
	} catch (error) {
		if (errnoOf(error) === 'EEXIST') throw nameTaken(name, `${partial} is there`);
		throw fileError('begin a snapshot in', folder, error);
	}
	try {
		// In this order: whoever held the partial folder before us may have finished the snapshot since.
		if (await isThere(path.join(folder, name))) throw nameTaken(name, `${path.join(folder, name)} is there`);
		const journal = newJournal(await thisOwner(plan.run), plan, wants, now);
		await replaceDurably(path.join(partial, OWNER_FILE), formatDocument(journal));
		await replaceDurably(path.join(partial, MACHINE_FILE), formatDocument(machine));
		await syncFolder(folder);
		return new PartialSnapshot(partial, journal);
	} catch (error) {
		await removeTree(partial);
		throw error instanceof QuiesceError ? error : fileError('begin a snapshot in', folder, error);
	}
}

export function nameTaken(name: string, why: string): QuiesceError {
	return new QuiesceError('REFUSED', `a snapshot cannot be called ${name}: ${why}`, {
		hint: 'Name another one, or leave the name out.',
	});
}

/** What a run that goes on, or that died, has left of a snapshot. */
export interface ListedPartialSnapshot {
	readonly name: string;
	readonly folder: string;
	/** Undefined if it cannot be read: its owner was at the very beginning, or at the very end. */
	readonly partial: PartialSnapshot | undefined;
}

/** Of one folder of snapshots; none where there is no such folder. */
export async function listPartialSnapshots(folder: string): Promise<readonly ListedPartialSnapshot[]> {
	const entries = await fs.readdir(folder, {withFileTypes: true}).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return [];
		throw fileError('read', folder, error);
	});
	const names = entries.flatMap(entry => (entry.isDirectory() ? (parsePartialFolderName(entry.name) ?? []) : []));
	return Promise.all(
		names.map(async name => {
			const partial = path.join(folder, partialFolderName(name));
			return {name, folder: partial, partial: await readPartial(partial)};
		}),
	);
}

/** Undefined if its journal is not there, or cannot be read. */
export async function readPartial(folder: string): Promise<PartialSnapshot | undefined> {
	try {
		const file = path.join(folder, OWNER_FILE);
		return new PartialSnapshot(folder, parseJournal(await readDocument(file), file));
	} catch (error) {
		if (errnoOf(error) === 'ENOENT' || (error instanceof QuiesceError && error.code === 'DAMAGED')) return undefined;
		throw error;
	}
}

/** Whether a folder without a journal has all of a snapshot but the name. */
export function isComplete(folder: string): Promise<boolean> {
	return isThere(path.join(folder, SUMS_FILE));
}

/** Gives a complete snapshot its name. */
export async function appear(folder: string): Promise<Snapshot> {
	const file = path.join(folder, SNAPSHOT_FILE);
	const manifest = parseSnapshot(await readDocument(file), file);
	const final = path.join(path.dirname(folder), manifest.name);
	await syncFolder(folder);
	if (await isThere(final)) throw new QuiesceError('FAILED', `${final} has appeared meanwhile`);
	await fs.rename(folder, final);
	await syncFolder(path.dirname(final));
	return {state: 'readable', name: manifest.name, folder: final, manifest};
}

/** Removes the folder of an unfinished snapshot. What it tells of must be gone, or be somebody's. */
export async function removePartialSnapshot(folder: string): Promise<void> {
	await removeTree(folder);
	await syncFolder(path.dirname(folder));
	await removeIfEmpty(path.dirname(folder));
}
