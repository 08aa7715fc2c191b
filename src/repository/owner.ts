import os from 'node:os';
import * as v from 'valibot';
import {errnoOf} from '../errors.ts';
import {bootId, readStat} from '../host/start-ticks.ts';

/** run.json: whose a partial point is, so that a later run can tell whether that one is dead. */
export interface Owner {
	readonly run: string;
	readonly pid: number;
	/** When the process started, in ticks since the boot: a number may have been given to another process since. */
	readonly startTicks: number;
	readonly host: string;
	/** Of the host; a new one after each boot. */
	readonly bootId: string;
}

export const ownerMembers = {
	run: v.string(),
	pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
	startTicks: v.number(),
	host: v.string(),
	bootId: v.string(),
};

const schema = v.object(ownerMembers);

/** This process, in its run. */
export async function thisOwner(run: string): Promise<Owner> {
	const {pid} = process;
	return {run, pid, startTicks: (await startTicks(pid)) ?? 0, host: os.hostname(), bootId: await bootId()};
}

/** Undefined if it cannot be read: then its owner died while writing it, or before. */
export function parseOwner(text: string): Owner | undefined {
	try {
		return v.parse(schema, JSON.parse(text));
	} catch {
		return undefined;
	}
}

/** `unknown` for an owner on another host, on a shared file system. */
export async function stateOf(owner: Owner): Promise<'alive' | 'dead' | 'unknown'> {
	if (owner.host !== os.hostname()) return 'unknown';
	if (owner.bootId !== (await bootId())) return 'dead';
	return (await startTicks(owner.pid)) === owner.startTicks ? 'alive' : 'dead';
}

/** Undefined if there is no such process, or only what its parent has not yet taken note of. */
async function startTicks(pid: number): Promise<number | undefined> {
	try {
		const stat = await readStat(`/proc/${pid}`);
		return ['Z', 'X'].includes(stat.state) ? undefined : stat.startTicks;
	} catch (error) {
		if (['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '')) return undefined;
		throw error;
	}
}
