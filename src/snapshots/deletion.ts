import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf, QuiesceError} from '../errors.ts';
import {formatDocument, parseDocument} from '../repository/document.ts';
import {isThere, readDocument, removeTree, replaceDurably, syncFolder} from '../repository/durable-files.ts';
import {hashFiles} from '../repository/hash-file.ts';
import {SUMS_FILE} from '../repository/layout.ts';
import {formatSums, parseSums} from '../repository/sums.ts';
import {SNAPSHOT_FILE} from './layout.ts';
import type {SnapshotManifest} from './manifest.ts';
import type {Snapshot} from './snapshots.ts';

const FILE = 'deleting.json';
const FORMAT = 1;

/** What is to become of a disk's images: `gone` is merged into `into`, which other snapshots have to be told of. */
export interface Merged {
	readonly disk: string;
	readonly gone: string;
	readonly into: string;
}

const schema: v.GenericSchema<unknown, {readonly format: number; readonly merged: readonly Merged[]}> = v.looseObject({
	format: v.literal(FORMAT),
	merged: v.array(v.looseObject({disk: v.string(), gone: v.string(), into: v.string()})),
});

/** Says, durably and before anything is merged, what a snapshot's deletion is about. */
export async function beginDeletion({folder}: Pick<Snapshot, 'folder'>, merged: readonly Merged[]): Promise<void> {
	await replaceDurably(path.join(folder, FILE), formatDocument({format: FORMAT, merged}));
}

/** Undefined where no deletion has begun. */
export async function readDeletion({folder}: Pick<Snapshot, 'folder'>): Promise<readonly Merged[] | undefined> {
	const file = path.join(folder, FILE);
	try {
		return parseDocument(schema, FORMAT, await readDocument(file), file).merged;
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw error;
	}
}

/** For a deletion of which nothing came: the snapshot is as it was. */
export async function cancelDeletion({folder}: Pick<Snapshot, 'folder'>): Promise<void> {
	await fs.rm(path.join(folder, FILE), {force: true});
	await syncFolder(folder);
}

/** Tells the other snapshots what has been merged, and takes the snapshot off the list. Can be repeated. */
export async function finishDeletion(
	snapshot: Pick<Snapshot, 'folder' | 'name'>,
	others: readonly Snapshot[],
	merged: readonly Merged[],
): Promise<void> {
	if (!(await isThere(snapshot.folder))) return;
	for (const other of others) if (other.folder !== snapshot.folder) await retell(other, merged);
	const parent = path.dirname(snapshot.folder);
	const removed = path.join(parent, `.${snapshot.name}.removed`);
	await removeTree(removed);
	await fs.rename(snapshot.folder, removed);
	await syncFolder(parent);
	await removeTree(removed);
	await fs.rmdir(parent).catch((error: unknown) => {
		if (!['ENOTEMPTY', 'EEXIST'].includes(errnoOf(error) ?? '')) throw error;
	});
}

async function retell({folder, manifest}: Snapshot, merged: readonly Merged[]): Promise<void> {
	const disks = await Promise.all(
		manifest.disks.map(async disk => {
			const mine = merged.filter(one => one.disk === disk.name);
			const [base, overlay] = [
				mine.find(one => one.gone === disk.base.file),
				mine.find(one => one.gone === disk.overlay?.file),
			];
			return {
				...disk,
				base: base ? {...disk.base, file: base.into, inode: (await fs.stat(base.into)).ino} : disk.base,
				overlay:
					overlay && disk.overlay
						? {...disk.overlay, file: overlay.into, inode: (await fs.stat(overlay.into)).ino}
						: disk.overlay,
			};
		}),
	);
	const changed: SnapshotManifest = {...manifest, disks};
	const text = formatDocument(changed);
	if (text === formatDocument(manifest)) return;
	const file = path.join(folder, SNAPSHOT_FILE);
	await replaceDurably(file, text);
	const sums = new Map(parseSums(await readDocument(path.join(folder, SUMS_FILE)), SUMS_FILE));
	const hash = (await hashFiles([file])).get(file);
	if (!hash || hash instanceof Error) throw new QuiesceError('FAILED', `${file} cannot be read again`);
	sums.set(SNAPSHOT_FILE, hash.sha256);
	await replaceDurably(path.join(folder, SUMS_FILE), formatSums(sums));
}
