import fs from 'node:fs/promises';
import path from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {errnoOf} from '../errors.ts';
import {LockedError} from '../host/lock.ts';
import {JobError} from '../jobs/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {stateOf} from '../repository/owner.ts';
import {listPartials, removePartial} from '../repository/partial-point.ts';
import type {Repository} from '../repository/repository.ts';
import {DAEMON_PID_FILE} from '../sink/daemon.ts';
import {isAlive, runFolders} from './run.ts';
import {runsInside, unwindInside} from './unwind.ts';

const KILL_WAIT_MS = 3_000;

/**
 * Undoes what dead runs left in a VM and on this host: jobs, nodes, storage daemons, folders. Returns what it did, in
 * words. The caller holds the VM's lock, so a run that is alive in there is one that came by another name: it is left
 * alone, with a {@link LockedError}.
 */
export async function recoverLeftovers(qmp: QmpConnection): Promise<string[]> {
	const done: string[] = [];
	for (const run of await runsInside(qmp)) {
		if (await isAlive(run)) throw new LockedError('the VM', {pid: 0, run, doing: 'a run under another name'});
		const removed = await unwindDead(qmp, run);
		done.push(`removed ${removed.join(', ')}, left by run ${run}`);
	}
	for (const {run, folder} of await runFolders()) {
		if (await isAlive(run)) continue;
		if (await endDaemon(folder)) done.push(`ended the storage daemon of run ${run}`);
		await fs.rm(folder, {recursive: true, force: true});
	}
	if (done.length > 0 && (await qmp.execute('query-status')).status === 'io-error') {
		done.push(
			'found the VM paused by an I/O error, which the lost run may have caused: `cont` on its monitor resumes it',
		);
	}
	return done;
}

/** Half a minute is much longer than the moments for which the partial point of a live run names no owner. */
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

/** A job whose daemon hangs only ends once that has gone. */
async function unwindDead(qmp: QmpConnection, run: string): Promise<string[]> {
	try {
		return await unwindInside(qmp, run);
	} catch (error) {
		const found = (await runFolders()).find(candidate => candidate.run === run);
		if (!(error instanceof JobError) || !found || !(await endDaemon(found.folder))) throw error;
		return unwindInside(qmp, run);
	}
}

/** True if there was one to end. Its number is trusted only while its process still bears the folder's name. */
async function endDaemon(folder: string): Promise<boolean> {
	const pid = Number(await readIfThere(path.join(folder, DAEMON_PID_FILE)));
	if (!Number.isSafeInteger(pid) || pid <= 1 || !(await servesFrom(pid, folder))) return false;
	process.kill(pid, 'SIGKILL');
	for (let waited = 0; waited < KILL_WAIT_MS && (await servesFrom(pid, folder)); waited += 50) await delay(50);
	return true;
}

/** Whether a process's command line names the folder. */
async function servesFrom(pid: number, folder: string): Promise<boolean> {
	const commandLine = await readIfThere(`/proc/${pid}/cmdline`);
	return commandLine?.includes(folder) ?? false;
}

async function readIfThere(file: string): Promise<string | undefined> {
	try {
		return await fs.readFile(file, 'utf8');
	} catch (error) {
		if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return undefined;
		throw error;
	}
}
