import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf} from '../errors.ts';
import {usersOf} from '../host/image-users.ts';
import {parseJson} from '../repository/document.ts';
import {removeFile, stateOfOverlay} from '../snapshots/overlay-file.ts';

const NAME = 'reverting';

const schema = v.array(v.object({file: v.string(), inode: v.nullable(v.number())}));

/** The overlays of a revert, with the inodes of those that are made. */
export type OverlaysMade = v.InferOutput<typeof schema>;

/** In the run's folder, which outlives the run only if that dies. */
export async function recordOverlays(folder: string, overlays: OverlaysMade): Promise<void> {
	const file = path.join(folder, NAME);
	await fs.writeFile(`${file}.new`, JSON.stringify(overlays), {mode: 0o600});
	await fs.rename(`${file}.new`, file);
}

/** Removes the overlays of a dead run, but for those that hold something or that somebody has open. */
export async function removeRecorded(folder: string): Promise<string[]> {
	const done: string[] = [];
	for (const overlay of await readRecorded(folder)) {
		const {file} = overlay;
		if ((await usersOf([file])).length > 0 || (await stateOfOverlay(overlay)) !== 'unused') continue;
		await removeFile(file);
		done.push(`removed the overlay ${file}, which was not in use`);
	}
	return done;
}

async function readRecorded(folder: string): Promise<OverlaysMade> {
	const file = path.join(folder, NAME);
	try {
		return v.parse(schema, parseJson(await fs.readFile(file, 'utf8'), file));
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return [];
		throw error;
	}
}
