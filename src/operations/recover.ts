import {concat, defer, EMPTY, from, map, mergeMap, type Observable} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {GuestAgent} from '../guest-agent/agent.ts';
import {agentLockKey, readMarker} from '../guest-agent/frozen-marker.ts';
import {type HostLock, LockedError, takeLock} from '../host/lock.ts';
import {openRepository, type Repository} from '../repository/repository.ts';
import {removeDeadPartials} from './dead-partials.ts';
import {removeLeftovers, resumeIfLeft} from './leftovers.ts';
import {tellOfReverts} from './left-reverts.ts';
import {isQuiesceFailure} from './quiescer.ts';
import {recoverDeletions, recoverSnapshots} from './recover-snapshots.ts';
import {settleLeftMerges} from './settle-left-merges.ts';
import {thawLeftover} from './thaw-leftover.ts';
import type {Session} from './vm-session.ts';
import {RECOVERY, type VmRequest, withVm} from './with-vm.ts';

export interface RecoverRequest extends VmRequest {
	/** Where partial points of the VM are looked for; undefined for nowhere. */
	readonly repository?: string | undefined;
	/** Where scratch was put by name, instead of beside the images. */
	readonly scratch?: string | undefined;
	/** Where unfinished snapshots may be, besides the folders of the images. */
	readonly snapshots?: string | undefined;
}

/** One thing that was undone, in words. */
export interface Recovered {
	readonly kind: 'recovered';
	readonly text: string;
}

/**
 * Undoes what dead runs left in a VM, on this host and in a repository. Cold. Emits what it did, and nothing where nothing
 * was left. Touches nothing of a run that lives, with which it fails with a `LockedError`, and nothing that is not ours.
 */
export function recover(request: RecoverRequest): Observable<Recovered> {
	const {repository} = request;
	return withVm(request, RECOVERY, vm =>
		concat(
			recoverVm(vm, request, undefined),
			// Not before: a repository that is not there must not keep the VM from being put right.
			repository === undefined
				? EMPTY
				: inWords(async () => removeDeadPartials(await openRepository(repository), vm.name)),
		),
	);
}

/** As {@link recover}, for the holder of the VM's lock. */
export function recoverVm(
	vm: Session,
	{scratch, snapshots}: Pick<RecoverRequest, 'scratch' | 'snapshots'>,
	repository: Repository | undefined,
): Observable<Recovered> {
	const agent = vm.power === 'on' ? vm.sockets.agent : undefined;
	return concat(
		// In the order of the harm that each does to the guest.
		vm.power === 'on' ? inWords(() => resumeIfLeft(vm.qmp)) : EMPTY,
		agent ? inWords(() => thawIfLeft(agent)) : EMPTY,
		// Before what records for them is removed.
		inWords(() => recoverSnapshots(vm, snapshots)),
		// Before the folders of dead runs go, in which it says what they were about.
		inWords(() => settleLeftMerges(vm, snapshots)),
		inWords(() => recoverDeletions(vm, snapshots)),
		inWords(() => tellOfReverts(vm, snapshots)),
		inWords(() => removeLeftovers(vm, scratch)),
		inWords(async () => (repository ? removeDeadPartials(repository, vm.name) : [])),
	);
}

/** Cold. */
export function inWords(undo: () => Promise<string[]>): Observable<Recovered> {
	return defer(undo).pipe(
		mergeMap(texts => from(texts)),
		map(text => ({kind: 'recovered' as const, text})),
	);
}

/** A freeze whose lock is held is that of a run, or of its guard, which lives. */
async function thawIfLeft(address: SocketAddress): Promise<string[]> {
	const marker = await readMarker(address);
	if (!marker) return [];
	let lock: HostLock;
	try {
		const holder = {pid: process.pid, run: marker.run, doing: RECOVERY};
		lock = await takeLock(await agentLockKey(address), 'the guest agent', holder);
	} catch (error) {
		if (error instanceof LockedError) return [];
		throw error;
	}
	try {
		const agent = await GuestAgent.open(address);
		try {
			return await thawLeftover(agent);
		} finally {
			agent.close();
		}
	} catch (error) {
		if (!isQuiesceFailure(error)) throw error;
		return [`could not thaw the guest, which run ${marker.run} may have left frozen: ${error.message}`];
	} finally {
		await lock.release();
	}
}
