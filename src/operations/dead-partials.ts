import fs from 'node:fs/promises';
import {stateOf} from '../repository/owner.ts';
import {listPartials, removePartial} from '../repository/partial-point.ts';
import type {Repository} from '../repository/repository.ts';

/** Much longer than the moments for which the partial point of a live run names no owner. */
const OWNERLESS_MS = 30_000;

/** Removes the partial points of dead runs. Those of another host's, on a shared file system, are left alone. */
export async function removeDeadPartials(repository: Repository, vm: string): Promise<string[]> {
	const done: string[] = [];
	for (const partial of await listPartials(repository, vm)) {
		const {owner, folder} = partial;
		const isDead = owner ? (await stateOf(owner)) === 'dead' : (await ageMs(folder)) > OWNERLESS_MS;
		if (!isDead) continue;
		await removePartial(partial);
		done.push(`removed the unfinished point ${partial.id}${owner ? ` of run ${owner.run}` : ''}`);
	}
	return done;
}

async function ageMs(folder: string): Promise<number> {
	return Date.now() - (await fs.stat(folder)).mtimeMs;
}
