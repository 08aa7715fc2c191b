import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';
import {isThere} from '../repository/durable-files.ts';

const NAME = 'snapshot';

/**
 * In the run's folder, which outlives the run only if that dies: where its unfinished snapshot is, which may be in a folder
 * that nobody would look into.
 */
export async function pointToSnapshot(runFolder: string, partial: string): Promise<void> {
	await fs.writeFile(path.join(runFolder, NAME), partial, {mode: 0o600});
}

export async function clearPointer(runFolder: string): Promise<void> {
	await fs.rm(path.join(runFolder, NAME), {force: true});
}

/** Whether a run had one that has not come to its end, wherever that is. */
export function pointsToSnapshot(runFolder: string): Promise<boolean> {
	return isThere(path.join(runFolder, NAME));
}

/** The folder of the unfinished snapshot of a run; undefined if it had none, or if that is gone by now. */
export async function snapshotOfRun(runFolder: string): Promise<string | undefined> {
	try {
		const partial = await fs.readFile(path.join(runFolder, NAME), 'utf8');
		await fs.access(partial).catch((error: unknown) => {
			// A file system that fails does not say that it is gone.
			if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) throw error;
		});
		return partial;
	} catch (error) {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw error;
	}
}
