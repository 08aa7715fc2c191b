import fs from 'node:fs/promises';
import path from 'node:path';
import {newRunId} from '../block/names.ts';
import {type HostLock, isLocked, takeLock} from '../host/lock.ts';
import {runtimeFolder} from '../host/runtime-folder.ts';
import {pointsToSnapshot} from './snapshot-pointer.ts';

const FOLDER_PREFIX = 'run-';

/** One execution: its id, the lock that shows it is alive, and a folder for its sockets. */
export interface Run {
	readonly id: string;
	/** Mode 0700. */
	readonly folder: string;
	/** Ends the run, and removes its folder; unless that says where a snapshot is that could neither be finished nor undone. */
	end(): Promise<void>;
}

export async function beginRun(doing: string): Promise<Run> {
	const id = newRunId();
	const folder = await folderOfRun(id);
	// In this order: a folder without its lock is one of a dead run.
	const lock: HostLock = await takeLock(lockKey(id), `run ${id}`, {pid: process.pid, run: id, doing});
	try {
		await fs.mkdir(folder, {mode: 0o700});
	} catch (error) {
		await lock.release();
		throw error;
	}
	return {
		id,
		folder,
		end: async () => {
			if (!(await pointsToSnapshot(folder))) await fs.rm(folder, {recursive: true, force: true});
			await lock.release();
		},
	};
}

/** That of any run. */
export async function folderOfRun(run: string): Promise<string> {
	return path.join(await runtimeFolder(), `${FOLDER_PREFIX}${run}`);
}

/** Whether a run goes on, on this host. */
export function isAlive(run: string): Promise<boolean> {
	return isLocked(lockKey(run));
}

/** Throws a `LockedError`, which says who is at work, if the run goes on. */
export async function requireDead(run: string, what: string): Promise<void> {
	if (!(await isAlive(run))) return;
	// Refused, with what the holder says of itself, unless it has ended just now.
	const lock = await takeLock(lockKey(run), what, {pid: process.pid, run, doing: 'recovery'});
	await lock.release();
}

/** The folders of runs on this host that were not ended, each with its run. */
export async function runFolders(): Promise<{run: string; folder: string}[]> {
	const root = await runtimeFolder();
	const names = (await fs.readdir(root)).filter(name => name.startsWith(FOLDER_PREFIX));
	return names.map(name => ({run: name.slice(FOLDER_PREFIX.length), folder: path.join(root, name)}));
}

function lockKey(run: string): string {
	return `run ${run}`;
}
