import {setTimeout as delay} from 'node:timers/promises';
import {lastValueFrom, map, toArray} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {LockedError} from '../host/lock.ts';
import {QmpConnection} from '../qmp/connection.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {openRepository} from '../repository/repository.ts';
import {removeDeadPartials} from './dead-partials.ts';
import type {Guarded} from './guard.ts';
import {removeRunFolders} from './leftovers.ts';
import {recover} from './recover.ts';

const RETRY_MS = 200;
/** Refused so often in a row, a socket belongs to a VM that has ended. */
const GONE_AFTER = 5;
/** Whoever holds the monitor for longer than this undoes it himself, or the next run does. */
const PATIENCE_MS = 60_000;

/** After the death of a run that may have paused the VM. Tries until QEMU has answered or ended; true if it was paused. */
export async function resumeAfterDeath(monitor: SocketAddress): Promise<boolean> {
	const resume = async (): Promise<boolean> => {
		const qmp = await QmpConnection.open(monitor);
		try {
			if ((await qmp.execute('query-status')).status !== 'paused') return false;
			await qmp.execute('cont');
			return true;
		} finally {
			await qmp.close();
		}
	};
	return (await insist(resume, Infinity)) ?? false;
}

/** Undoes what a dead run has left in its VM, on this host and in the repository. Returns what was done, in words. */
export async function undoAfterDeath({qmp, name, repository}: NonNullable<Guarded['vm']>): Promise<string[]> {
	const words: string[] = [];
	const request = {
		sockets: {qmp, name},
		repository,
		signal: new AbortController().signal,
		tell: (what: string) => {
			words.push(what);
		},
	};
	const undo = (): Promise<string[]> =>
		lastValueFrom(
			recover(request).pipe(
				map(({text}) => text),
				toArray(),
			),
			{defaultValue: []},
		);
	try {
		words.push(...((await insist(undo, PATIENCE_MS)) ?? (await removeFromHost(name, repository))));
	} catch (error) {
		// Another run is at work already: it has undone what it found, before anything else.
		if (!(error instanceof LockedError)) words.push(`${asError(error).message}; the next run tries again`);
	}
	return words;
}

/** Where QEMU has ended, and all that was inside with it. */
async function removeFromHost(vm: string, repository: string): Promise<string[]> {
	return [...(await removeRunFolders()), ...(await removeDeadPartials(await openRepository(repository), vm))];
}

/** Undefined once the VM has ended. A monitor has room for one client, which may be slow to leave. */
async function insist<Value>(work: () => Promise<Value>, patienceMs: number): Promise<Value | undefined> {
	const until = Date.now() + patienceMs;
	for (let gone = 0; ;) {
		try {
			return await work();
		} catch (error) {
			if (!(error instanceof UnreachableError) || Date.now() > until) throw error;
			gone = error.vmHasEnded ? gone + 1 : 0;
			if (gone >= GONE_AFTER) return undefined;
		}
		await delay(RETRY_MS);
	}
}
