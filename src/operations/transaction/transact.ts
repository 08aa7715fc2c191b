import {concat, concatMap, defer, EMPTY, ignoreElements, map, type Observable, of} from 'rxjs';
import {asError, QuiesceError} from '../../errors.ts';
import {AgentError} from '../../guest-agent/errors.ts';
import {endJobs} from '../../jobs/end-jobs.ts';
import type {NamedJob} from '../../jobs/named-job.ts';
import {runJobs} from '../../jobs/run-jobs.ts';
import type {QmpConnection} from '../../qmp/connection.ts';
import {QmpCommandError} from '../../qmp/errors.ts';
import {aborted} from '../../rx/aborted.ts';
import {guardedBy} from '../../rx/guarded-by.ts';
import {scoped} from '../../rx/scoped.ts';
import type {CutRecord, DiskProgress} from '../backup-messages.ts';
import {cutFrozen} from '../frozen-cut.ts';
import type {Quiescer} from '../quiescer.ts';
import {reachAgain} from '../reach-again.ts';
import {recoverVm} from '../recover.ts';
import type {VmSession} from '../vm-session.ts';
import {withGuard} from '../with-guard.ts';
import {type QuiesceRequest, withQuiescer} from '../with-quiescer.ts';
import {lostErrors, withVm} from '../with-vm.ts';
import type {LocatedPlan} from './plan.ts';
import {type PlannedCommand, resolvePlan, type ResolvedPlan} from './resolve-plan.ts';

/** After so long without any progress of any job. */
const STALL_MS = 120_000;

export interface TransactRequest extends QuiesceRequest {
	/** As {@link parseTransaction} reads it. */
	readonly plan: LocatedPlan;
	/** Says what would be sent, and sends nothing. */
	readonly dryRun?: boolean;
}

export type TransactMessage =
	| {readonly kind: 'recovered' | 'warning'; readonly text: string}
	/** What is sent, with nodes in the place of disks. */
	| ({readonly kind: 'planned'; readonly vm: string} & Omit<ResolvedPlan, 'jobs'>)
	/** QEMU has carried the transaction out. */
	| ({readonly kind: 'cut'} & CutRecord)
	/** Of the jobs, by the disks that they read. */
	| {readonly kind: 'progress'; readonly disks: readonly DiskProgress[]}
	| ({
			readonly kind: 'finished';
			readonly vm: string;
			/** Those that the transaction started; all have done their work. */
			readonly jobs: readonly {readonly id: string; readonly bytes: number}[];
	  } & Pick<CutRecord, 'at' | 'consistency' | 'freeze' | 'standstill'>);

interface Work {
	readonly request: TransactRequest;
	readonly vm: VmSession;
	readonly resolved: ResolvedPlan;
	readonly quiescer: Quiescer | undefined;
	/** Whether jobs with these names may be those of the transaction. */
	readonly sent: {state: 'no' | 'perhaps'};
}

/**
 * Carries out a file's transaction: what it has prepared, the actions at one instant, in a frozen guest if that is wanted, and its
 * jobs to their end, all of which have to succeed. Cold. Where something fails, or the signal comes, the jobs are cancelled, and
 * what the file lists as `cleanup` is done, before the stream fails. Nothing is sent before the QEMU's schema has nothing against any of it.
 */
export function transact(request: TransactRequest): Observable<TransactMessage> {
	const doing = `a transaction since ${new Date().toISOString()}`;
	return withVm(request, doing, (vm, run) => {
		const resolve = async (): Promise<ResolvedPlan> =>
			resolvePlan(request.plan, {schema: vm.schema, graph: await vm.readGraph(), run: run.id});
		const {agent} = vm.sockets;
		return defer(resolve).pipe(
			concatMap(resolved => {
				const planned = {kind: 'planned' as const, vm: vm.name, ...withoutJobs(resolved)};
				if (request.dryRun === true) return of(planned);
				return withGuard(request, run, {agent, vm: {qmp: vm.sockets.qmp, name: vm.name}}, guarded =>
					concat(
						recoverVm(vm, {}, undefined),
						withQuiescer(request, vm, guarded, async (quiescer, whyNot) => {
							await guarded.guard.ready();
							const warnings = whyNot === undefined ? [] : [`without a freeze: ${whyNot}`];
							return concat(
								warnings.map(text => ({kind: 'warning' as const, text})),
								of(planned),
								carryOut({request, vm, resolved, quiescer, sent: {state: 'no'}}),
							);
						}),
					),
				);
			}),
		);
	});
}

function withoutJobs({prepare, transaction, after, cleanup}: ResolvedPlan): Omit<ResolvedPlan, 'jobs'> {
	return {prepare, transaction, after, cleanup};
}

function carryOut(work: Work): Observable<TransactMessage> {
	const {request, vm, resolved} = work;
	return scoped({
		acquire: () => Promise.resolve(),
		release: (_, outcome) => (outcome === 'completed' ? EMPTY : defer(() => undo(work)).pipe(ignoreElements())),
		onLostError: lostErrors(request),
		use: () =>
			concat(defer(() => sendAll(vm.qmp, resolved.prepare, request.signal)).pipe(ignoreElements()), actAndFollow(work)),
	});
}

function actAndFollow(work: Work): Observable<TransactMessage> {
	const {request, vm, resolved} = work;
	const {qmp, name} = vm;
	const bytes = new Map<string, number>();
	let record: CutRecord | undefined;
	const finished = async (): Promise<TransactMessage> => {
		if (!record) throw new Error('the transaction has not been sent');
		await sendAll(qmp, resolved.after, request.signal);
		const {at, consistency, freeze, standstill} = record;
		const jobs = resolved.jobs.map(({id}) => ({id, bytes: bytes.get(id) ?? 0}));
		return {kind: 'finished', vm: name, jobs, at, consistency, freeze, standstill};
	};
	const cut = async (): Promise<TransactMessage> => {
		record = await act(work);
		return {kind: 'cut', ...record};
	};
	if (resolved.jobs.length === 0) return concat(defer(cut), defer(finished));
	const followed$ = runJobs(qmp, resolved.jobs, cut, {watchers$: [aborted(request.signal)], stallMs: STALL_MS}).pipe(
		map(message => {
			if (message.kind === 'started') return message.value;
			for (const {id, total} of message.jobs) bytes.set(id, total);
			return {kind: 'progress' as const, disks: message.jobs.map(job => progressOf(job, resolved.jobs))};
		}),
	);
	return concat(followed$, defer(finished).pipe(guardedBy(aborted(request.signal))));
}

/** The transaction, at one instant. */
async function act({request, vm, resolved, quiescer, sent}: Work): Promise<CutRecord> {
	await requireFree(vm.qmp, resolved.jobs);
	const record = await cutFrozen({...request, called: 'a transaction'}, quiescer, async () => {
		const begun = performance.now();
		sent.state = 'perhaps';
		await vm.qmp.executeAny('transaction', resolved.transaction).catch((error: unknown) => {
			if (error instanceof QmpCommandError) sent.state = 'no';
			throw error;
		});
		return {standstill: {of: 'disks', seconds: (performance.now() - begun) / 1000}};
	});
	if (quiescer && request.quiesce === 'require' && record.degraded !== undefined) throw new AgentError(record.degraded);
	return record;
}

/** Another's job of that name would be taken for ours, and cancelled. */
async function requireFree(qmp: QmpConnection, jobs: readonly NamedJob[]): Promise<void> {
	const there = (await qmp.execute('query-jobs')).find(({id}) => jobs.some(job => job.id === id));
	if (!there) return;
	throw new QuiesceError('REFUSED', `there is a job ${there.id} in this VM already`, {
		hint: 'Give that of the transaction another job-id, or none.',
	});
}

async function sendAll(qmp: QmpConnection, commands: readonly PlannedCommand[], signal: AbortSignal): Promise<void> {
	for (const {command, args} of commands) {
		signal.throwIfAborted();
		await qmp.executeAny(command, args);
	}
}

/** All of it is tried, and told of if it fails: why the transaction failed matters more. */
async function undo({request, vm, resolved, sent}: Work): Promise<void> {
	const {jobs, cleanup} = resolved;
	try {
		await reachAgain(vm, async qmp => {
			if (sent.state === 'perhaps') {
				const left = (await qmp.execute('query-jobs')).filter(({id}) => jobs.some(job => job.id === id));
				await endJobs(qmp, left).catch((error: unknown) => {
					request.tell(`not all jobs could be cancelled: ${asError(error).message}`);
				});
			}
			for (const {command, args} of cleanup) {
				await qmp.executeAny(command, args).catch((error: unknown) => {
					request.tell(`cleanup: ${asError(error).message}`);
				});
			}
		});
	} catch (error) {
		request.tell(`nothing was cleaned up: ${asError(error).message}`);
	}
}

function progressOf(
	{id, current, total}: {readonly id: string; readonly current: number; readonly total: number},
	jobs: readonly NamedJob[],
): DiskProgress {
	return {disk: jobs.find(job => job.id === id)?.label ?? id, doneBytes: current, totalBytes: total};
}
