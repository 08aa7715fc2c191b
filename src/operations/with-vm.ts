import type {Observable} from 'rxjs';
import {asError} from '../errors.ts';
import {takeLock} from '../host/lock.ts';
import type {Transcript} from '../qmp/transcript.ts';
import {scoped} from '../rx/scoped.ts';
import {beginRun, type Run} from './run.ts';
import {openVm, type VmSession, type VmSockets} from './vm-session.ts';

/** What every operation on a VM is given. */
export interface VmRequest {
	readonly sockets: VmSockets;
	/** Ends the operation, which fails with its reason after it has undone what it had begun. */
	readonly signal: AbortSignal;
	readonly transcript?: Transcript | undefined;
	/** Told, in words, what happens while the operation undoes something: there is no message of the stream for it. */
	readonly tell: (what: string) => void;
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
		release: vm => vm.qmp.close(),
		onLostError,
		use: vm =>
			scoped({
				acquire: () => beginRun(doing),
				release: run => run.end(),
				onLostError,
				use: run =>
					scoped({
						acquire: () => takeLock(vm.lockKey, `VM ${vm.name}`, {pid: process.pid, run: run.id, doing}),
						release: lock => lock.release(),
						onLostError,
						use: () => use(vm, run),
					}),
			}),
	});
}

/** For `scoped`: what fails in a release that nobody waits for is told all the same. */
export function lostErrors({tell}: Pick<VmRequest, 'tell'>): (error: unknown) => void {
	return error => {
		tell(asError(error).message);
	};
}
