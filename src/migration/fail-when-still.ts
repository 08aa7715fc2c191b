import {performance} from 'node:perf_hooks';
import {map, type Observable, scan, tap, timer, ignoreElements} from 'rxjs';
import {MigrationError} from './errors.ts';

const LOOK_MS = 500;

/** Never emits; fails when a count of bytes has not changed for so long. */
export function failWhenStill(bytes: () => number, ms: number): Observable<never> {
	return timer(0, LOOK_MS).pipe(
		map(() => ({bytes: bytes(), at: performance.now()})),
		scan((last, now) => (now.bytes === last.bytes ? last : now)),
		tap(({at}) => {
			if (performance.now() - at < ms) return;
			throw new MigrationError(`no byte of the memory has come for ${Math.round(ms / 1000)} s`, {
				hint: 'Does the file system that it is saved to, or loaded from, hang? Or that of the disks?',
			});
		}),
		ignoreElements(),
	);
}
