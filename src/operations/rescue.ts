import {performance} from 'node:perf_hooks';
import {setTimeout as delay} from 'node:timers/promises';
import {lastValueFrom, tap} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {LockedError} from '../host/lock.ts';
import {QmpConnection} from '../qmp/connection.ts';
import {QmpOutcomeUnknownError, UnreachableError} from '../qmp/errors.ts';
import {openRepository} from '../repository/repository.ts';
import {removeDeadPartials} from './dead-partials.ts';
import type {Guarded} from './guard.ts';
import {removeRunFolders, resumeIfLeft} from './leftovers.ts';
import {recover} from './recover.ts';
import {isAlive, runFolders} from './run.ts';

const RETRY_MS = 200;
/** Refused so often in a row, a socket belongs to a VM that has ended. */
const GONE_AFTER = 5;
/** Whoever holds the monitor for longer than this undoes it himself, or the next run does. */
const PATIENCE_MS = 60_000;

type Tell = (what: string) => void;

/** After the death of a run that may have paused the VM: tries until QEMU has answered or ended, or another has done it. */
export async function resumeAfterDeath(monitor: SocketAddress, tell: Tell): Promise<void> {
	const resume = async (): Promise<void> => {
		const qmp = await QmpConnection.open(monitor);
		try {
			(await resumeIfLeft(qmp)).forEach(tell);
		} finally {
			await qmp.close();
		}
	};
	try {
		await insist(resume, Infinity);
	} catch (error) {
		tell(`could not resume the VM: ${asError(error).message}`);
	}
}

/** Undoes what a dead run has left in its VM, on this host and in the repository. Tells what it does. */
export async function undoAfterDeath({qmp, name, repository}: NonNullable<Guarded['vm']>, tell: Tell): Promise<void> {
	const undo = async (monitor: SocketAddress): Promise<void> => {
		const request = {sockets: {qmp: monitor, name}, signal: new AbortController().signal, tell};
		const undone$ = recover(request).pipe(
			tap(({text}) => {
				tell(text);
			}),
		);
		await lastValueFrom(undone$, {defaultValue: undefined});
	};
	const onFailure = (error: unknown): void => {
		tell(`${asError(error).message}; the next run tries again`);
	};
	try {
		const vm = qmp === undefined ? 'gone' : await insist(() => undo(qmp), PATIENCE_MS);
		if (vm === 'gone') (await removeRunFolders(new Set(), {pausing: 'remove'})).forEach(tell);
	} catch (error) {
		onFailure(error);
	}
	if (repository === undefined) return;
	try {
		// Without the VM's lock, as the file system of a repository may hang.
		(await removeDeadPartials(await openRepository(repository), name)).forEach(tell);
	} catch (error) {
		onFailure(error);
	}
}

/**
 * Does `work`, again and again where the VM is not to be had for it: a monitor has room for one client, who may be slow to
 * leave. `nothing left`: another run has undone all of it meanwhile.
 */
async function insist(work: () => Promise<void>, patienceMs: number): Promise<'done' | 'gone' | 'nothing left'> {
	const until = performance.now() + patienceMs;
	for (let refused = 0; ;) {
		if (!(await isAnythingLeft())) return 'nothing left';
		try {
			await work();
			return 'done';
		} catch (error) {
			if (!isPassing(error) || performance.now() > until) throw error;
			refused = error instanceof UnreachableError && error.vmHasEnded ? refused + 1 : 0;
			if (refused >= GONE_AFTER) return 'gone';
		}
		await delay(RETRY_MS);
	}
}

/** QEMU may also end, or be killed, in the middle. */
function isPassing(error: unknown): boolean {
	return error instanceof UnreachableError || error instanceof QmpOutcomeUnknownError || error instanceof LockedError;
}

/** A run's folder goes last of all that is in its VM and on its host. */
async function isAnythingLeft(): Promise<boolean> {
	for (const {run} of await runFolders()) if (!(await isAlive(run))) return true;
	return false;
}
