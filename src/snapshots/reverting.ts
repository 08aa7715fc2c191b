import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf} from '../errors.ts';
import {formatDocument, parseDocument} from '../repository/document.ts';
import {readDocument, removeIfEmpty, replaceDurably, syncFolder} from '../repository/durable-files.ts';

const FILE = '.reverting.json';
const FORMAT = 1;

/** Images that are brought back to a snapshot inside them, one after the other. */
export interface Reverting {
	readonly vm: string;
	readonly snapshot: string;
	readonly images: readonly {readonly disk: string; readonly file: string}[];
}

const schema: v.GenericSchema<unknown, Reverting & {readonly format: number}> = v.looseObject({
	format: v.literal(FORMAT),
	vm: v.string(),
	snapshot: v.string(),
	images: v.array(v.looseObject({disk: v.string(), file: v.string()})),
});

/** Where it is noted, among the snapshots in `folder`. */
export function revertingFile(folder: string): string {
	return path.join(folder, FILE);
}

/** Says, durably, that from now on some of the images may be at the snapshot, and others not. */
export async function beginReverting(folder: string, reverting: Reverting): Promise<void> {
	await fs.mkdir(folder, {recursive: true, mode: 0o700});
	await syncFolder(path.dirname(folder));
	await replaceDurably(revertingFile(folder), formatDocument({format: FORMAT, ...reverting}));
}

/** Undefined where none has begun, or the last has come to its end. */
export async function readReverting(folder: string): Promise<Reverting | undefined> {
	const file = revertingFile(folder);
	try {
		return parseDocument(schema, FORMAT, await readDocument(file), file);
	} catch (error) {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw error;
	}
}

export async function endReverting(folder: string): Promise<void> {
	await fs.rm(revertingFile(folder), {force: true});
	await syncFolder(folder);
	await removeIfEmpty(folder);
}
