import {setTimeout as delay} from 'node:timers/promises';
import {concatMap, defer, lastValueFrom, type Observable} from 'rxjs';
import {asError} from '../errors.ts';
import {type HostLock, LockedError, type LockHolder, takeLock} from '../host/lock.ts';
import type {Transcript} from '../qmp/transcript.ts';
import {scoped} from '../rx/scoped.ts';
import {beginRun, type Run} from './run.ts';
import {lockKeyOf, openImages} from './open-images.ts';
import {recoverClosed} from './recover-closed.ts';
import type {DiskSelection} from './select-disks.ts';
import {findVmImages, type KnownVm, type VmImages} from './vm-images.ts';
import {type ImagesSession, openVm, type Session, type VmSession, type VmSockets} from './vm-session.ts';

/** What every operation on a VM is given. */
export interface VmRequest {
	readonly sockets: VmSockets;
	/** Ends the operation, which fails with its reason after it has undone what it had begun. */
	readonly signal: AbortSignal;
	readonly transcript?: Transcript | undefined;
	/** Told, in words, what happens while the operation undoes something: there is no message of the stream for it. */
	readonly tell: (what: string) => void;
}

/** What is given to an operation that also works on a VM which is off. */
export interface AnyVmRequest extends Omit<VmRequest, 'sockets'>, DiskSelection {
	readonly sockets: VmSockets | VmImages;
}

/** As {@link withVm} for a VM that runs; opens the images of one that is off. */
export function withAnyVm<Message>(
	request: AnyVmRequest,
	doing: string,
	use: (vm: Session, run: Run) => Observable<Message>,
): Observable<Message> {
	const {sockets} = request;
	return 'qmp' in sockets
		? withVm({...request, sockets}, doing, use)
		: defer(() => findVmImages(sockets, request)).pipe(concatMap(known => withImages(request, known, doing, use)));
}

/** What `look` finds in a VM, of which it changes nothing; without a lock if it runs. */
export async function lookAt<Value extends object>(
	request: AnyVmRequest,
	doing: string,
	look: (vm: Session) => Promise<Value>,
): Promise<Value> {
	const {sockets} = request;
	if (!('qmp' in sockets)) {
		const found = await lastValueFrom(
			withAnyVm(request, doing, session => defer(() => look(session))),
			{defaultValue: undefined},
		);
		if (!found) throw new Error('nobody has looked');
		return found;
	}
	const vm = await openVm(sockets, request);
	try {
		return await look(vm);
	} finally {
		await vm.close();
	}
}

/** Cold: takes the lock of the VM, begins a run, opens the images, and ends all three in the opposite order. */
function withImages<Message>(
	request: AnyVmRequest,
	known: KnownVm,
	doing: string,
	use: (vm: ImagesSession, run: Run) => Observable<Message>,
): Observable<Message> {
	const onLostError = lostErrors(request);
	return scoped({
		acquire: () => beginRun(doing),
		release: run => run.end(),
		onLostError,
		use: run =>
			scoped({
				acquire: () => lockVm({lockKey: lockKeyOf(known), name: known.name}, {pid: process.pid, run: run.id, doing}),
				release: lock => lock.release(),
				onLostError,
				use: () =>
					scoped({
						acquire: async () => {
							for (const text of await recoverClosed(known)) request.tell(text);
							return openImages(known, {...request, folder: run.folder});
						},
						release: async (vm, outcome) => {
							if (outcome === 'completed') await vm.settle();
							await vm.close();
						},
						onLostError,
						use: vm => use(vm, run),
					}),
			}),
	});
}

/** Cold: opens the VM, takes its lock, begins a run, and ends all three in the opposite order. */
export function withVm<Message>(
	request: VmRequest,
	doing: string,
	use: (vm: VmSession, run: Run) => Observable<Message>,
): Observable<Message> {
	const onLostError = lostErrors(request);
	return scoped({
		acquire: () => openVm(request.sockets, request),
		release: vm => vm.close(),
		onLostError,
		use: vm =>
			scoped({
				acquire: () => beginRun(doing),
				release: run => run.end(),
				onLostError,
				use: run =>
					scoped({
						acquire: () => lockVm(vm, {pid: process.pid, run: run.id, doing}),
						release: lock => lock.release(),
						onLostError,
						use: () => use(vm, run),
					}),
			}),
	});
}

/** In words, what the holder of a lock is doing who will not take long. */
export const RECOVERY = 'a recovery';
const RECOVERY_MS = 30_000;
const RETRY_MS = 100;

/** A recovery, such as a guard does it after the death of its run, is waited for. */
async function lockVm({lockKey, name}: Pick<VmSession, 'lockKey' | 'name'>, holder: LockHolder): Promise<HostLock> {
	const until = Date.now() + RECOVERY_MS;
	for (;;) {
		try {
			return await takeLock(lockKey, `VM ${name}`, holder);
		} catch (error) {
			// One who let go of the lock while he was asked does not answer.
			const isPassing = error instanceof LockedError && (error.holder === undefined || error.holder.doing === RECOVERY);
			if (!isPassing || Date.now() > until) throw error;
		}
		await delay(RETRY_MS);
	}
}

/** For `scoped`: what fails in a release that nobody waits for is told all the same. */
export function lostErrors({tell}: Pick<VmRequest, 'tell'>): (error: unknown) => void {
	return error => {
		tell(asError(error).message);
	};
}
