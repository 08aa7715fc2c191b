import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {formatDocument} from './document.ts';
import {
	fileError,
	readDocument,
	removeIfEmpty,
	removeTree,
	syncFolder,
	syncFile,
	writeDurably,
} from './durable-files.ts';
import {hashFiles, type HashOptions} from './hash-file.ts';
import {
	MACHINE_FILE,
	MANIFEST_FILE,
	OWNER_FILE,
	parsePartialFolderName,
	partialFolderName,
	PLAIN_NAME,
	pointFolder,
	SUMS_FILE,
	vmFolder,
} from './layout.ts';
import type {Machine} from './machine.ts';
import {kindOf, MANIFEST_FORMAT, parseManifest, type PointManifest, type StoredDisk} from './manifest.ts';
import {type Owner, parseOwner, thisOwner} from './owner.ts';
import {comparePointIds, pointId} from './point-id.ts';
import type {Point} from './points.ts';
import type {Repository} from './repository.ts';
import {formatSums} from './sums.ts';

const MAX_POINTS_A_SECOND = 1_000;

/** What the backup knows of a point; the rest of its manifest follows from that and from the files. */
export interface PointDraft extends Omit<
	PointManifest,
	'format' | 'id' | 'vm' | 'run' | 'kind' | 'finishedAt' | 'disks'
> {
	readonly disks: readonly DiskDraft[];
}

export interface DiskDraft extends Omit<StoredDisk, 'storedBytes' | 'addedBytes' | 'sha256' | 'chain'> {
	/** Of a clone: what was written to it. */
	readonly addedBytes?: number | undefined;
	/** That of the parent; null for a full, which begins its own. */
	readonly chain: string | null;
}

export interface FinishOptions extends HashOptions {
	readonly now?: Date;
	/** All is durable by then, and only the renaming left. */
	readonly beforeAppearing?: (() => Promise<void>) | undefined;
}

/** A point that is being written: a hidden folder, until {@link finish} lets it appear whole. */
export class PartialPoint {
	/** The id that the point is going to have. */
	readonly id: string;
	readonly vm: string;
	readonly run: string;
	readonly folder: string;
	readonly #final: string;
	#state: 'open' | 'ended' = 'open';

	/** Use {@link createPartialPoint}. */
	constructor(repository: Repository, vm: string, id: string, run: string) {
		this.id = id;
		this.vm = vm;
		this.run = run;
		this.folder = path.join(vmFolder(repository.path, vm), partialFolderName(id));
		this.#final = pointFolder(repository.path, vm, id);
	}

	/** Where the file of that plain name is to be written. */
	path(file: string): string {
		if (!PLAIN_NAME.test(file)) throw new QuiesceError('FAILED', `${JSON.stringify(file)} is no file of a point`);
		return path.join(this.folder, file);
	}

	/**
	 * Makes the point appear: its files are complete, closed and listed in `draft`. They are synced and hashed, the
	 * documents written and synced, and the folder renamed. If this fails, abandon it.
	 */
	async finish(draft: PointDraft, machine: Machine, options: FinishOptions = {}): Promise<Point> {
		const {id, vm, run} = this;
		const contents = draft.disks.flatMap(({hashes}) => hashes ?? []);
		await this.#requireOnly([...draft.disks.map(({file}) => file), ...contents]);
		// Both at once: what is hashed comes from memory while the disk is written. A clone shares most of its file with its
		// parent: to read all of that would cost as much as a full.
		const read = [...draft.disks.filter(({layout}) => layout !== 'clone').map(({file}) => file), ...contents];
		const [hashes] = await Promise.all([
			hashFiles(
				read.map(file => this.path(file)),
				options,
			),
			...draft.disks.map(({file}) => syncFile(this.path(file))),
		]);
		const sums = new Map<string, string>();
		for (const file of read) {
			const hash = hashes.get(this.path(file));
			if (!hash || hash instanceof Error) throw fileError('read', this.path(file), hash);
			sums.set(file, hash.sha256);
		}
		const disks = await Promise.all(
			draft.disks.map(async (disk): Promise<StoredDisk> => {
				const {size: storedBytes} = await fs.stat(this.path(disk.file));
				const {chain, addedBytes = storedBytes} = disk;
				return {...disk, chain: chain ?? id, storedBytes, addedBytes, sha256: sums.get(disk.file) ?? null};
			}),
		);
		const finishedAt = (options.now ?? new Date()).toISOString();
		const kind = kindOf(disks);
		const written: PointManifest = {...draft, format: MANIFEST_FORMAT, id, vm, run, kind, finishedAt, disks};
		const text = formatDocument(written);
		// What we could not read again is not made visible.
		const manifest = parseManifest(text, MANIFEST_FILE);
		await this.#writeDocuments(sums, text, formatDocument(machine));
		await options.beforeAppearing?.();
		options.signal?.throwIfAborted();
		await this.#appear();
		return {id, folder: this.#final, manifest, isProtected: false};
	}

	/** Removes all that was written; nothing once the point is finished. */
	async abandon(): Promise<void> {
		if (this.#state === 'ended') return;
		await removeTree(this.folder);
		this.#state = 'ended';
		// The VM's first point, perhaps: without one, the repository does not know the VM.
		await removeIfEmpty(path.dirname(this.folder));
	}

	async #requireOnly(files: readonly string[]): Promise<void> {
		const found = (await fs.readdir(this.folder)).filter(name => !name.startsWith('.') && name !== OWNER_FILE);
		const strange = found.filter(name => !files.includes(name));
		const missing = files.filter(name => !found.includes(name));
		if (strange.length + missing.length === 0) return;
		throw new QuiesceError(
			'FAILED',
			`point ${this.id} of ${this.vm} is not as it was meant: ` +
				[...missing.map(name => `${name} is missing`), ...strange.map(name => `${name} is not part of it`)].join(', '),
		);
	}

	/** `sums` are those of the files that the documents list. */
	async #writeDocuments(sums: Map<string, string>, manifest: string, machine: string): Promise<void> {
		await writeDurably(this.path(MACHINE_FILE), machine);
		await writeDurably(this.path(MANIFEST_FILE), manifest);
		const documents = await hashFiles([this.path(MACHINE_FILE), this.path(MANIFEST_FILE)]);
		for (const [file, hash] of documents) {
			if (hash instanceof Error) throw fileError('read', file, hash);
			sums.set(path.basename(file), hash.sha256);
		}
		await writeDurably(this.path(SUMS_FILE), formatSums(sums));
	}

	async #appear(): Promise<void> {
		await fs.rm(this.path(OWNER_FILE));
		await syncFolder(this.folder);
		// Nobody else may take this id while the partial folder exists; rename(2) would replace an empty folder.
		if (await exists(this.#final)) throw new QuiesceError('FAILED', `${this.#final} has appeared meanwhile`);
		await fs.rename(this.folder, this.#final);
		this.#state = 'ended';
		await syncFolder(path.dirname(this.#final));
	}
}

/** Reserves the next free id of the second `now` and makes the folder. The caller finishes or abandons it. */
export async function createPartialPoint(
	repository: Repository,
	vm: string,
	now: Date,
	run: string,
): Promise<PartialPoint> {
	const parent = vmFolder(repository.path, vm);
	try {
		await fs.mkdir(parent, {recursive: true, mode: 0o700});
		await syncFolder(path.dirname(parent));
		for (let nth = 1; nth <= MAX_POINTS_A_SECOND; nth++) {
			const partial = new PartialPoint(repository, vm, pointId(now, nth), run);
			if (await reserve(partial.folder, pointFolder(repository.path, vm, partial.id))) {
				await writeDurably(partial.path(OWNER_FILE), formatDocument(await thisOwner(run)));
				return partial;
			}
		}
	} catch (error) {
		throw fileError('create a point in', parent, error);
	}
	throw new QuiesceError('FAILED', `no id is free for a point of ${vm} at ${now.toISOString()}`);
}

async function reserve(partial: string, final: string): Promise<boolean> {
	try {
		await fs.mkdir(partial, {mode: 0o700});
	} catch (error) {
		if (errnoOf(error) === 'EEXIST') return false;
		throw error;
	}
	// In this order: whoever held the partial folder before us may have finished the point since.
	if (!(await exists(final))) return true;
	await fs.rmdir(partial);
	return false;
}

async function exists(file: string): Promise<boolean> {
	try {
		await fs.lstat(file);
		return true;
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return false;
		throw error;
	}
}

/** What a run that goes on, or that died, has left of a point. */
export interface ListedPartial {
	/** Of the point that it would have become. */
	readonly id: string;
	readonly folder: string;
	/** Undefined if it cannot be told: its owner was at the very beginning, or at the very end. */
	readonly owner: Owner | undefined;
}

/** The partial points of a VM, oldest first. */
export async function listPartials(repository: Repository, vm: string): Promise<readonly ListedPartial[]> {
	const parent = vmFolder(repository.path, vm);
	const entries = await fs.readdir(parent, {withFileTypes: true}).catch((error: unknown) => {
		if (errnoOf(error) === 'ENOENT') return [];
		throw fileError('read', parent, error);
	});
	const found = entries.flatMap(entry => {
		const id = parsePartialFolderName(entry.name);
		return id !== undefined && entry.isDirectory() ? [{id, folder: path.join(parent, entry.name)}] : [];
	});
	found.sort((one, other) => comparePointIds(one.id, other.id));
	return Promise.all(
		found.map(async partial => {
			const text = await readDocument(path.join(partial.folder, OWNER_FILE)).catch(() => '');
			return {...partial, owner: parseOwner(text)};
		}),
	);
}

/** Removes what a dead run has left. To be called by the holder of the VM's lock. */
export async function removePartial(partial: Pick<ListedPartial, 'folder'>): Promise<void> {
	await removeTree(partial.folder);
	await syncFolder(path.dirname(partial.folder));
}
