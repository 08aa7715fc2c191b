import {concat, map, merge, type MonoTypeOperatorFunction, type Observable, of, takeWhile} from 'rxjs';

/**
 * Fails as soon as one of the watchers does; completes with the source. Only for the innermost stream of nested scopes:
 * one that still has to release something would not be waited for.
 */
export function guardedBy<Value>(...watchers$: readonly Observable<never>[]): MonoTypeOperatorFunction<Value> {
	return source$ => {
		const values$ = source$.pipe(map(value => ({value})));
		return merge(concat(values$, of(undefined)), ...watchers$).pipe(
			takeWhile(item => item !== undefined),
			map(({value}) => value),
		);
	};
}
