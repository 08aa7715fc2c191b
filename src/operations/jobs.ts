import {
	concat,
	concatMap,
	defer,
	EMPTY,
	exhaustMap,
	from,
	map,
	merge,
	type Observable,
	of,
	scan,
	takeWhile,
	timer,
} from 'rxjs';
import {runOf} from '../block/names.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {followStates, type JobStates} from '../jobs/job-states.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {UnreachableError} from '../qmp/errors.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import type {Transcript} from '../qmp/transcript.ts';
import {aborted} from '../rx/aborted.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {scoped} from '../rx/scoped.ts';
import {type JobReport, reportOfJob} from './inspect.ts';
import {openVm, type VmSockets} from './vm-session.ts';

export interface JobsRequest {
	/** By which the VM may be reached: the first that is free is taken, as a run at work holds its own. */
	readonly sockets: readonly [VmSockets, ...VmSockets[]];
	readonly signal: AbortSignal;
	readonly transcript?: Transcript | undefined;
	readonly tell: (what: string) => void;
}

export type JobChange =
	{readonly kind: 'pause' | 'resume' | 'cancel'} | {readonly kind: 'speed'; readonly bytes: number};

export type WatchMessage =
	| {readonly kind: 'progress'; readonly jobs: readonly JobReport[]}
	/** `error` is null if it did its work. */
	| {readonly kind: 'ended'; readonly id: string; readonly error: string | null}
	| {readonly kind: 'finished'; readonly failed: number};

/** All jobs of a VM, whoever's and of whatever kind. */
export async function listJobs(request: JobsRequest): Promise<readonly JobReport[]> {
	return withMonitor(request, async qmp => (await qmp.execute('query-jobs')).map(reportOfJob));
}

/**
 * Changes the job of that id, or else all jobs of this program: another program's only by its name. No job is dismissed:
 * whoever began it wants to know how it ended. Returns the ids of those that were changed.
 */
export async function changeJobs(request: JobsRequest, change: JobChange, id?: string): Promise<readonly string[]> {
	return withMonitor(request, async qmp => {
		const jobs = await qmp.execute('query-jobs');
		const chosen = choose(jobs, id, isOurs);
		for (const job of chosen) await apply(qmp, job, change);
		return chosen.map(job => job.id);
	});
}

/** Until the job of that id, or else all that there are now, have ended. Cold; changes nothing. */
export function watchJobs(request: JobsRequest, id?: string): Observable<WatchMessage> {
	return scoped({
		acquire: () => openFirst(request),
		release: vm => vm.close(),
		onLostError: error => {
			request.tell(error instanceof Error ? error.message : String(error));
		},
		use: ({qmp}) =>
			defer(() => qmp.execute('query-jobs')).pipe(
				concatMap(jobs =>
					jobs.length === 0 && id === undefined
						? of({kind: 'finished' as const, failed: 0})
						: watch(
								qmp,
								choose(jobs, id, () => true),
							),
				),
				guardedBy(aborted(request.signal)),
			),
	});
}

interface Watched {
	readonly open: ReadonlySet<string>;
	readonly news: readonly WatchMessage[];
	readonly failed: number;
}

/** A job that dismisses itself says only by an event how it ended; one that does not keeps its error. */
function watch(qmp: QmpConnection, jobs: readonly QmpJobInfo[]): Observable<WatchMessage> {
	const ids = jobs.map(({id}) => id);
	const states$ = followStates(qmp, ids).pipe(map(states => ({states})));
	const infos$ = timer(0, 500).pipe(
		exhaustMap(() => qmp.execute('query-jobs')),
		map(infos => ({infos})),
	);
	let known: JobStates = new Map();
	return merge(states$, infos$).pipe(
		scan(
			({open, failed}: Watched, seen): Watched => {
				if ('states' in seen) {
					known = seen.states;
					return {open, failed, news: []};
				}
				const there = seen.infos.filter(info => open.has(info.id) && info.status !== 'concluded');
				const ended = [...open].filter(id => !there.some(info => info.id === id));
				const news = ended.map(id => ({
					kind: 'ended' as const,
					id,
					error: seen.infos.find(info => info.id === id)?.error ?? known.get(id)?.end?.error ?? null,
				}));
				return {
					open: new Set(there.map(info => info.id)),
					failed: failed + news.filter(({error}) => error !== null).length,
					news: [{kind: 'progress', jobs: there.map(reportOfJob)}, ...news],
				};
			},
			{open: new Set(ids), news: [], failed: 0},
		),
		takeWhile(({open}) => open.size > 0, true),
		concatMap(({open, news, failed}) =>
			concat(from(news), open.size > 0 ? EMPTY : of({kind: 'finished' as const, failed})),
		),
	);
}

function isOurs({id}: QmpJobInfo): boolean {
	return runOf(id) !== undefined;
}

function choose(
	jobs: readonly QmpJobInfo[],
	id: string | undefined,
	isMeant: (job: QmpJobInfo) => boolean,
): readonly QmpJobInfo[] {
	const chosen = jobs.filter(job => (id === undefined ? isMeant(job) : job.id === id));
	if (chosen.length > 0) return chosen;
	const hint = jobs.length === 0 ? 'It has no jobs.' : `Its jobs are: ${jobs.map(job => job.id).join(', ')}.`;
	if (id !== undefined) throw new UsageError(`this VM has no job '${id}'`, {hint});
	throw new QuiesceError('REFUSED', 'this VM has no job of this program', {hint});
}

async function apply(qmp: QmpConnection, {id}: QmpJobInfo, change: JobChange): Promise<void> {
	switch (change.kind) {
		case 'pause':
			await qmp.execute('job-pause', {id});
			break;
		case 'resume':
			await qmp.execute('job-resume', {id});
			break;
		case 'cancel':
			await qmp.execute('job-cancel', {id});
			break;
		case 'speed':
			await qmp.execute('block-job-set-speed', {device: id, speed: change.bytes});
	}
}

async function withMonitor<Value>(request: JobsRequest, use: (qmp: QmpConnection) => Promise<Value>): Promise<Value> {
	const vm = await openFirst(request);
	try {
		return await use(vm.qmp);
	} finally {
		await vm.close();
	}
}

/** A monitor serves one client, and a run at work is one. */
async function openFirst({sockets: [first, ...others], ...request}: JobsRequest): ReturnType<typeof openVm> {
	try {
		return await openVm(first, request);
	} catch (error) {
		const [next, ...rest] = others;
		if (!(error instanceof UnreachableError) || !next) throw error;
		return openFirst({...request, sockets: [next, ...rest]});
	}
}
