import fs from 'node:fs/promises';
import {setTimeout as delay} from 'node:timers/promises';
import {processServing} from '../host/processes.ts';
import {JobError} from '../jobs/errors.ts';
import {yank} from '../jobs/yank.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {stateOf} from '../repository/owner.ts';
import {listPartials, removePartial} from '../repository/partial-point.ts';
import type {Repository} from '../repository/repository.ts';
import {socketIn} from '../sink/daemon.ts';
import {isAlive, requireDead, runFolders} from './run.ts';
import {nodesOfRun, runsInside, unwindInside} from './unwind.ts';

const KILL_WAIT_MS = 3_000;
/** SS_CONNECTED in the kernel's table of Unix sockets. */
const CONNECTED = '03';

/**
 * Undoes what dead runs left in a VM and on this host: jobs, nodes, storage daemons, folders. Returns what it did, in
 * words. The caller holds the VM's lock, so a run that is alive in there is one that came by another name: it is left
 * alone, with a `LockedError`.
 */
export async function recoverLeftovers(qmp: QmpConnection): Promise<string[]> {
	const done: string[] = [];
	const inside = await runsInside(qmp);
	for (const run of inside) {
		await requireDead(run, 'the VM');
		done.push(...(await unwindDead(qmp, run)));
	}
	for (const {run, folder} of await runFolders()) {
		if (await isAlive(run)) continue;
		// Another VM, where its jobs go on: they would fail the guest's writes, and the next run there ends them first.
		if (!inside.has(run) && (await hasClients(socketIn(folder)))) continue;
		if (await endDaemon(folder)) done.push(endedDaemon(run));
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

/** A job whose daemon hangs only ends when that has gone, or, where it cannot be killed, its connection. */
async function unwindDead(qmp: QmpConnection, run: string): Promise<string[]> {
	const unwind = async (): Promise<string> =>
		`removed ${(await unwindInside(qmp, run)).join(', ')}, left by run ${run}`;
	try {
		return [await unwind()];
	} catch (error) {
		if (!(error instanceof JobError)) throw error;
		await yank(qmp, await nodesOfRun(qmp, run));
		const found = (await runFolders()).find(candidate => candidate.run === run);
		const hadDaemon = found !== undefined && (await endDaemon(found.folder));
		return [...(hadDaemon ? [endedDaemon(run)] : []), await unwind()];
	}
}

function endedDaemon(run: string): string {
	return `ended the storage daemon of run ${run}`;
}

/** True if there was one to end. Whatever serves the run's socket is the run's. */
async function endDaemon(folder: string): Promise<boolean> {
	const daemon = await processServing(socketIn(folder));
	if (!daemon) return false;
	process.kill(daemon.pid, 'SIGKILL');
	for (let waited = 0; waited < KILL_WAIT_MS && (await processServing(socketIn(folder))); waited += 50) await delay(50);
	return true;
}

/** Whether a process is connected to a Unix socket that another serves. */
async function hasClients(socket: string): Promise<boolean> {
	const table = await fs.readFile('/proc/net/unix', 'utf8');
	return table.split('\n').some(line => {
		const [, , , , , state, , ...bound] = line.split(' ').filter(field => field !== '');
		return state === CONNECTED && bound.join(' ') === socket;
	});
}
