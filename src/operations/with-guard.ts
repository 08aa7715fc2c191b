import {EMPTY, type Observable} from 'rxjs';
import {scoped} from '../rx/scoped.ts';
import {Guard, type Guarded} from './guard.ts';
import type {Run} from './run.ts';
import {lostErrors, type VmRequest} from './with-vm.ts';

/** A run, and the process that cleans up after it. */
export interface GuardedRun {
	readonly run: Run;
	readonly guard: Guard;
}

/** Cold: starts a guard, and ends it once what it would have to undo has been undone. */
export function withGuard<Message>(
	request: Pick<VmRequest, 'tell'>,
	run: Run,
	guarded: Guarded,
	use: (guarded: GuardedRun) => Observable<Message>,
): Observable<Message> {
	return scoped({
		acquire: () => Promise.resolve(Guard.start(guarded)),
		release: guard => {
			guard.end();
			return EMPTY;
		},
		onLostError: lostErrors(request),
		use: guard => use({run, guard}),
	});
}
