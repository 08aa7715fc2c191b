import {defer, filter, firstValueFrom, map, merge, mergeMap, type Observable} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpMigrationInfo} from '../qmp/schema.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {MigrationError} from './errors.ts';

/** Any other word means that something goes on: releases add words, as 11.x did with `failing`. */
const OVER = new Set([undefined, 'none', 'completed', 'failed', 'cancelled']);

/** Whether nothing goes on, for better or worse. */
export function isOver({status}: QmpMigrationInfo): boolean {
	return OVER.has(status);
}

/**
 * Resolves when the migration that was begun has come to a status. Rejects with a {@link MigrationError} if it has failed
 * or was cancelled, and with what a watcher fails with. Needs the capability `events`.
 */
export async function reach(
	qmp: QmpConnection,
	wanted: 'pre-switchover' | 'completed',
	watchers$: readonly Observable<never>[] = [],
): Promise<void> {
	// In this order: what happens between the events and the answer is in both.
	const statuses$ = merge(
		qmp.on('MIGRATION').pipe(map(({data}) => data.status)),
		defer(() => qmp.execute('query-migrate')).pipe(map(({status}) => status)),
	);
	const reached$ = statuses$.pipe(
		mergeMap(async status => {
			if (status === 'failed' || status === 'cancelled') throw await failure(qmp, status);
			return status;
		}),
		filter(status => status === wanted),
		guardedBy(...watchers$),
	);
	await firstValueFrom(reached$, {defaultValue: undefined});
}

async function failure(qmp: QmpConnection, status: string): Promise<MigrationError> {
	if (status === 'cancelled') return new MigrationError('another program has cancelled the migration');
	const {'error-desc': reason} = await qmp.execute('query-migrate');
	return new MigrationError(`the migration failed: ${reason ?? 'QEMU does not say why; its own log may'}`);
}
