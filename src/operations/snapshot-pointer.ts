import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';

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

/** The folder of the unfinished snapshot of a run; undefined if it had none, or if that is gone by now. */
export async function snapshotOfRun(runFolder: string): Promise<string | undefined> {
	try {
		const partial = await fs.readFile(path.join(runFolder, NAME), 'utf8');
		await fs.access(partial);
		return partial;
	} catch (error) {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw error;
	}
}
