import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import type {MigrationMark} from '../migration/end-migration.ts';
import {errnoOf} from '../errors.ts';
import {parseJson} from '../repository/document.ts';

const NAME = 'pausing';

/** What a run that has paused its VM leaves for whoever comes after its death. */
export interface PauseMark {
	/** Where the VM is paused by a migration that saves its memory. */
	readonly migration: MigrationMark | null;
}

const schema: v.GenericSchema<unknown, PauseMark> = v.object({
	migration: v.nullable(
		v.object({
			settings: v.object({
				capabilities: v.record(v.string(), v.boolean()),
				maxBandwidth: v.number(),
				downtimeLimitMs: v.number(),
			}),
			wasRunning: v.boolean(),
			hasSwitched: v.boolean(),
			canActivate: v.boolean(),
		}),
	),
});

/**
 * Before a run pauses its VM: from this mark a later run can tell that a VM which it finds paused is to go on. In the
 * run's folder, which outlives the run only if that dies.
 */
export async function markPausing(folder: string, migration: MigrationMark | null = null): Promise<void> {
	const file = path.join(folder, NAME);
	await fs.writeFile(`${file}.new`, JSON.stringify({migration} satisfies PauseMark), {mode: 0o600});
	await fs.rename(`${file}.new`, file);
}

export async function clearPausing(folder: string): Promise<void> {
	await fs.rm(path.join(folder, NAME), {force: true});
}

/** Undefined if there is none. */
export async function readPausing(folder: string): Promise<PauseMark | undefined> {
	const file = path.join(folder, NAME);
	try {
		return v.parse(schema, parseJson(await fs.readFile(file, 'utf8'), file));
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw error;
	}
}
