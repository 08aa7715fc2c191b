import {concatMap, ignoreElements, type Observable, timer} from 'rxjs';
import type {Guard} from './guard.ts';

/** Not heard of for so long, a run counts as hung: the VM may be paused at any moment, or is. */
export const HUNG_MS = 10_000;
const EVERY_MS = 1_000;

/** Tells the guard that we are there, for as long as the VM may be paused. Never emits; fails if the guard does not hear us. */
export function heard(guard: Guard): Observable<never> {
	return timer(EVERY_MS, EVERY_MS).pipe(
		concatMap(() => guard.watchPause(HUNG_MS)),
		ignoreElements(),
	);
}
