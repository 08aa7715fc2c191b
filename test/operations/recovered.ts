import {lastValueFrom, map, type Observable, toArray} from 'rxjs';
import type {Recovered} from '../../src/operations/recover.ts';

/** All that a recovery says that it did. */
export function textsOf(recovered$: Observable<Recovered>): Promise<string[]> {
	return lastValueFrom(
		recovered$.pipe(
			map(({text}) => text),
			toArray(),
		),
	);
}
