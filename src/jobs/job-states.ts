import {filter, map, merge, type Observable, scan} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpJobStatus} from '../qmp/schema.ts';

export interface JobState {
	/** Absent until the first change is seen. */
	readonly status?: QmpJobStatus;
	/** What failed last, if something did. */
	readonly failed?: 'read' | 'write';
	/** How it ended, once it has: with what error, if it has not done its work. */
	readonly end?: {readonly error?: string | undefined};
}

export type JobStates = ReadonlyMap<string, JobState>;

/**
 * The states of the named jobs as events tell them, all of them at each change. Others' jobs are passed over. Hot: it
 * knows only what happens after it was subscribed to, so that must come before the jobs are started.
 */
export function followStates(qmp: QmpConnection, ids: readonly string[]): Observable<JobStates> {
	const changes$ = qmp.on('JOB_STATUS_CHANGE').pipe(map(({data}) => ({id: data.id, change: {status: data.status}})));
	const errors$ = qmp
		.on('BLOCK_JOB_ERROR')
		.pipe(map(({data}) => ({id: data.device, change: {failed: data.operation}})));
	const completed$ = qmp
		.on('BLOCK_JOB_COMPLETED')
		.pipe(map(({data}) => ({id: data.device, change: {end: {error: data.error}}})));
	const cancelled$ = qmp
		.on('BLOCK_JOB_CANCELLED')
		.pipe(map(({data}) => ({id: data.device, change: {end: {error: 'it was cancelled'}}})));
	return merge(changes$, errors$, completed$, cancelled$).pipe(
		filter(({id}) => ids.includes(id)),
		scan(
			(states: JobStates, {id, change}) => new Map(states).set(id, {...states.get(id), ...change}),
			new Map<string, JobState>(),
		),
	);
}
