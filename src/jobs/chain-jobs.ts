import {
	concat,
	concatMap,
	defer,
	EMPTY,
	exhaustMap,
	filter,
	finalize,
	ignoreElements,
	map,
	merge,
	type Observable,
	of,
	ReplaySubject,
	take,
	takeWhile,
	timer,
} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {converging} from './convergence.ts';
import {JobError} from './errors.ts';
import {followStates, type JobState, type JobStates} from './job-states.ts';
import type {NamedJob} from './named-job.ts';
import type {JobProgress} from './run-jobs.ts';

/** A job that changes a chain of images while the guest goes on to write to it: commit or stream. */
export interface ChainJob extends NamedJob {
	/**
	 * Where it waits for our word: an active commit at `ready`, where it goes on to follow the guest, and has to have the
	 * default of `auto-finalize`, since one that is pending holds the guest's I/O; all others at `pending`, with
	 * `auto-finalize: false`.
	 */
	readonly waits: 'ready' | 'pending';
}

export type ChainJobsMessage =
	| {readonly kind: 'progress'; readonly jobs: readonly JobProgress[]}
	/** The job's limit of speed was lifted, or it would not have come to its end. */
	| {readonly kind: 'unlimited'; readonly label: string}
	/** From here on there is no way back. */
	| {readonly kind: 'completing'};

export interface ChainJobsOptions {
	/** What ends the jobs by failing, as long as none is being completed. */
	readonly watchers$?: readonly Observable<never>[];
	readonly pollMs?: number;
	readonly patienceMs?: number;
	readonly deadlineMs?: number | undefined;
	readonly limited?: boolean;
}

/** Of a job that is being completed: nothing is left to be done then but the pivot, for which QEMU holds the guest's I/O. */
const COMPLETING_MS = 60_000;
const PATIENCE_MS = 120_000;

/**
 * Starts jobs and follows them to their real end. `start` must create exactly these jobs. Once all wait, `whenWaiting` is
 * waited for, and they are completed or finalized. Cold; completes when all have done their work and are gone. Fails with a
 * {@link JobError} as soon as one has not, and leaves the others then to `endJobs`. Concluded jobs are dismissed, where QEMU
 * has not done so by itself: that it must do with a stream before 11.1, which crashes it otherwise.
 */
export function runChainJobs(
	qmp: QmpConnection,
	jobs: readonly ChainJob[],
	{start, whenWaiting}: {readonly start: () => Promise<void>; readonly whenWaiting: () => Promise<void>},
	{watchers$ = [], pollMs = 250, patienceMs = PATIENCE_MS, deadlineMs, limited = false}: ChainJobsOptions = {},
): Observable<ChainJobsMessage> {
	const ids = jobs.map(({id}) => id);
	return defer(() => {
		// Following comes first: a short job has ended before the reply to what started it.
		const states$ = new ReplaySubject<JobStates>(1);
		const following = followStates(qmp, ids).subscribe(states$);
		const progress$ = timer(0, pollMs).pipe(
			exhaustMap(() => qmp.execute('query-jobs')),
			converging(qmp, jobs, {patienceMs, deadlineMs, limited}),
			concatMap(({infos, unlimited}) => [
				...unlimited.map(({label}) => ({kind: 'unlimited' as const, label})),
				{kind: 'progress' as const, jobs: infos.filter(({id}) => ids.includes(id)).map(progressOf)},
			]),
		);
		const until = (isSo: (states: JobStates) => boolean): Observable<ChainJobsMessage> => {
			const over$ = states$.pipe(filter(isSo), take(1));
			return merge(progress$, over$.pipe(map(() => undefined))).pipe(takeWhile(message => message !== undefined));
		};
		const completed$ = concat(
			defer(whenWaiting).pipe(ignoreElements()),
			of({kind: 'completing' as const}),
			defer(() => complete(qmp, jobs)).pipe(ignoreElements()),
			until(states => ids.every(id => hasEnded(states.get(id)))).pipe(guardedBy(tooLong(jobs))),
		);
		const last = (next: (states: JobStates) => Observable<ChainJobsMessage>): Observable<ChainJobsMessage> =>
			states$.pipe(take(1), concatMap(next));
		return concat(
			defer(start).pipe(ignoreElements()),
			until(states => isWaiting(states, jobs)).pipe(guardedBy(...watchers$)),
			last(states => (hasFailed(states, ids) ? EMPTY : completed$)),
			last(states => defer(() => settle(qmp, jobs, states)).pipe(ignoreElements())),
		).pipe(
			finalize(() => {
				following.unsubscribe();
			}),
		);
	});
}

function hasEnded(state: JobState | undefined): boolean {
	return state?.end !== undefined && (state.status === 'concluded' || state.status === 'null');
}

/** Or has ended before its time, as another program completed it. */
function hasFailed(states: JobStates, ids: readonly string[]): boolean {
	return ids.some(id => hasEnded(states.get(id)));
}

/** Whether each is where it waits for us, or one has failed. `standby` is `ready` while QEMU holds the disk still. */
function isWaiting(states: JobStates, jobs: readonly ChainJob[]): boolean {
	if (
		hasFailed(
			states,
			jobs.map(({id}) => id),
		)
	)
		return true;
	return jobs.every(({id, waits}) => {
		const {status} = states.get(id) ?? {};
		return status === waits || (waits === 'ready' && status === 'standby');
	});
}

async function complete(qmp: QmpConnection, jobs: readonly ChainJob[]): Promise<void> {
	for (const {id, waits} of jobs) await qmp.execute(waits === 'ready' ? 'job-complete' : 'job-finalize', {id});
}

function tooLong(jobs: readonly ChainJob[]): Observable<never> {
	const labels = jobs.map(({label}) => label).join(', ');
	return timer(COMPLETING_MS).pipe(
		map(() => {
			throw new JobError(`${labels}: no end within ${COMPLETING_MS / 1000} s of being completed`, {
				hint: 'The storage hangs, or the guest writes faster than it takes. `quiesce inspect` shows what the disks lie on.',
			});
		}),
	);
}

async function settle(qmp: QmpConnection, jobs: readonly ChainJob[], states: JobStates): Promise<void> {
	const reasons = jobs.flatMap(({id, label}) => {
		const {end} = states.get(id) ?? {};
		return end?.error === undefined ? [] : [`${label}: the job failed: ${end.error}`];
	});
	if (reasons.length > 0) throw new JobError(reasons.join('; '));
	if (!jobs.every(({id}) => hasEnded(states.get(id)))) {
		throw new JobError('another program completed a job before all were to be completed');
	}
	const infos = await qmp.execute('query-jobs');
	for (const {id} of jobs.filter(({id}) => infos.some(info => info.id === id))) await qmp.execute('job-dismiss', {id});
}

function progressOf(info: QmpJobInfo): JobProgress {
	return {id: info.id, current: info['current-progress'], total: info['total-progress']};
}
