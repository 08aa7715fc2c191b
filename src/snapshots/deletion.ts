import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf} from '../errors.ts';
import {formatDocument, parseDocument} from '../repository/document.ts';
import {
	isThere,
	readDocument,
	removeIfEmpty,
	removeTree,
	replaceDurably,
	syncFolder,
} from '../repository/durable-files.ts';
import {mergedImages, type MergedImages, tellWhatIsMerged} from './retell.ts';
import type {Snapshot} from './snapshots.ts';

const FILE = 'deleting.json';
const FORMAT = 1;

const schema: v.GenericSchema<unknown, {readonly format: number; readonly merged: readonly MergedImages[]}> =
	v.looseObject({
		format: v.literal(FORMAT),
		merged: v.array(mergedImages),
	});

/** Says, durably and before anything is merged, what a snapshot's deletion is about. */
export async function beginDeletion(
	{folder}: Pick<Snapshot, 'folder'>,
	merged: readonly MergedImages[],
): Promise<void> {
	await replaceDurably(path.join(folder, FILE), formatDocument({format: FORMAT, merged}));
}

/** Undefined where no deletion has begun. */
export async function readDeletion({folder}: Pick<Snapshot, 'folder'>): Promise<readonly MergedImages[] | undefined> {
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
	merged: readonly MergedImages[],
): Promise<void> {
	if (!(await isThere(snapshot.folder))) return;
	await tellWhatIsMerged(
		others.filter(({folder}) => folder !== snapshot.folder),
		merged,
	);
	const parent = path.dirname(snapshot.folder);
	const removed = removedFolder(parent, snapshot.name);
	await removeTree(removed);
	await fs.rename(snapshot.folder, removed);
	await syncFolder(parent);
	await removeTree(removed);
	await removeIfEmpty(parent);
}

/** What deletions that were killed at their very end have left in a folder of snapshots. Returns the names of these. */
export async function removeDeleted(folder: string): Promise<string[]> {
	const entries = await fs.readdir(folder).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return [];
		throw error;
	});
	const names = entries.flatMap(entry => REMOVED.exec(entry)?.groups?.['name'] ?? []);
	for (const name of names) await removeTree(removedFolder(folder, name));
	if (names.length > 0) await removeIfEmpty(folder);
	return names;
}

const REMOVED = /^\.(?<name>.+)\.removed$/;

function removedFolder(parent: string, name: string): string {
	return path.join(parent, `.${name}.removed`);
}
