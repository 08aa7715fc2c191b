import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';

const NAME = 'scratch';

/** In the run's folder: where its scratch files are, for a moment each, which may be where nobody would look for them. */
export async function noteScratch(runFolder: string, folders: Iterable<string>): Promise<void> {
	const absolute = [...folders].map(folder => path.resolve(folder));
	if (absolute.length > 0) await fs.writeFile(path.join(runFolder, NAME), absolute.join('\0'), {mode: 0o600});
}

/** Where scratch files of the run may be. */
export async function notedScratch(runFolder: string): Promise<string[]> {
	try {
		return (await fs.readFile(path.join(runFolder, NAME), 'utf8')).split('\0');
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return [];
		throw error;
	}
}
