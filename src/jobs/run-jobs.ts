import {
	concat,
	concatMap,
	defer,
	distinctUntilChanged,
	EMPTY,
	exhaustMap,
	finalize,
	ignoreElements,
	map,
	merge,
	type Observable,
	ReplaySubject,
	scan,
	takeWhile,
	timer,
} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {JobError} from './errors.ts';
import {failOnStall} from './fail-on-stall.ts';
import {followStates, type JobState, type JobStates} from './job-states.ts';
import type {NamedJob} from './named-job.ts';

export interface JobProgress {
	readonly id: string;
	/** Bytes done and to do, as QEMU counts them: writes of the guest add to both. */
	readonly current: number;
	readonly total: number;
}

export type JobsMessage<Value> =
	| {readonly kind: 'started'; readonly value: Value}
	| {readonly kind: 'progress'; readonly jobs: readonly JobProgress[]};

export interface RunOptions {
	/** What ends the jobs by failing. */
	readonly watchers$?: readonly Observable<never>[];
	readonly pollMs?: number;
	/** A job that runs for so long without any progress has failed. */
	readonly stallMs?: number;
}

/**
 * Starts jobs that must all succeed, follows them by events, finalizes them once every one is pending, and dismisses
 * them. Cold; completes when all have concluded well and are gone, fails with a {@link JobError} as soon as one has not,
 * and leaves the others then to `endJobs`. A watcher that fails ends it too,
 * but never before `start` has come to its end.
 *
 * `start` must create exactly these jobs, with `auto-finalize: false` and `auto-dismiss: false`. Only for backup jobs:
 * mirror and active commit hold the guest's I/O while they are pending, and a concluded stream can crash QEMU.
 */
export function runJobs<Value>(
	qmp: QmpConnection,
	jobs: readonly NamedJob[],
	start: () => Promise<Value>,
	{watchers$ = [], pollMs = 500, stallMs = Infinity}: RunOptions = {},
): Observable<JobsMessage<Value>> {
	const ids = jobs.map(job => job.id);
	return defer(() => {
		// Following comes first: a short job is pending before the reply to what started it.
		const states$ = new ReplaySubject<JobStates>(1);
		const following = followStates(qmp, ids).subscribe(states$);
		const phases$ = states$.pipe(
			scan((seen: Seen, states) => ({phase: nextPhase(seen.phase, states, ids), states}), NOTHING_SEEN),
			distinctUntilChanged((before, after) => before.phase === after.phase),
			concatMap(({states, phase}) => {
				switch (phase) {
					case 'running':
						return EMPTY;
					case 'pending':
						return defer(() => finalizeAll(qmp, ids)).pipe(ignoreElements());
					case 'ended':
						return defer(() => settle(qmp, jobs, states)).pipe(map(() => undefined));
				}
			}),
		);
		const progress$ = timer(0, pollMs).pipe(
			exhaustMap(() => qmp.execute('query-jobs')),
			failOnStall(jobs, stallMs),
			map(infos => ({kind: 'progress' as const, jobs: infos.filter(({id}) => ids.includes(id)).map(progressOf)})),
		);
		return concat(
			defer(start).pipe(map(value => ({kind: 'started' as const, value}))),
			merge(progress$, phases$).pipe(
				takeWhile(message => message !== undefined),
				guardedBy(...watchers$),
			),
		).pipe(
			finalize(() => {
				following.unsubscribe();
			}),
		);
	});
}

/** `pending`: all were, and are being finalized. `ended`: all have concluded, or one has before that. */
type Phase = 'running' | 'pending' | 'ended';

interface Seen {
	readonly phase: Phase;
	readonly states: JobStates;
}

const NOTHING_SEEN: Seen = {phase: 'running', states: new Map()};

function nextPhase(phase: Phase, states: JobStates, ids: readonly string[]): Phase {
	const statuses = ids.map(id => states.get(id)?.status);
	const hasEnded = (status: JobState['status']): boolean => status === 'concluded' || status === 'null';
	if (statuses.every(hasEnded)) return 'ended';
	if (phase === 'pending' || statuses.every(status => status === 'pending')) return 'pending';
	return statuses.some(hasEnded) ? 'ended' : 'running';
}

async function finalizeAll(qmp: QmpConnection, ids: readonly string[]): Promise<void> {
	for (const id of ids) {
		await qmp.execute('job-finalize', {id}).catch((error: unknown) => {
			// One that somebody else has cancelled or finalized is judged when it has concluded.
			if (!(error instanceof QmpCommandError)) throw error;
		});
	}
}

async function settle(qmp: QmpConnection, jobs: readonly NamedJob[], states: JobStates): Promise<void> {
	const infos = await qmp.execute('query-jobs');
	for (const {id, label} of jobs) {
		const info = infos.find(candidate => candidate.id === id);
		const reason = failureOf(info, states.get(id));
		if (reason !== undefined) throw new JobError(`${label}: ${reason}`);
	}
	if (infos.some(({id, status}) => jobs.some(job => job.id === id) && status !== 'concluded')) {
		const early = jobs.filter(({id}) => infos.some(info => info.id === id && info.status === 'concluded'));
		const labels = early.map(({label}) => label).join(', ');
		throw new JobError(`${labels}: another program finalized the job before every disk was copied`);
	}
	for (const {id} of jobs) await qmp.execute('job-dismiss', {id});
}

function failureOf(info: QmpJobInfo | undefined, state: JobState | undefined): string | undefined {
	if (!info) return 'the job was dismissed by another program, so whether it succeeded is unknown';
	if (info.error !== undefined) {
		const during = {read: ' while reading the disk', write: ' while writing the copy'};
		return `the job failed${state?.failed ? during[state.failed] : ''}: ${info.error}`;
	}
	// The others have not concluded, or QEMU would have reported them first.
	if (info.status !== 'concluded') return undefined;
	const {'current-progress': current, 'total-progress': total} = info;
	return current === total ? undefined : `the job ended early, at ${current} of ${total} bytes`;
}

function progressOf(info: QmpJobInfo): JobProgress {
	return {id: info.id, current: info['current-progress'], total: info['total-progress']};
}
