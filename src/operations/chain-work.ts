import {concatMap, defer, type Observable} from 'rxjs';
import {QuiesceError} from '../errors.ts';
import {type ChainJob, type ChainJobsMessage, runChainJobs} from '../jobs/chain-jobs.ts';
import {endJobs} from '../jobs/end-jobs.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import {aborted} from '../rx/aborted.ts';
import type {DiskProgress} from './backup-messages.ts';
import type {Run} from './run.ts';
import type {Session} from './vm-session.ts';
import type {VmRequest} from './with-vm.ts';

/** An open VM whose lock the caller holds, for changes of its chains of images. */
export interface ChainWork {
	readonly request: Pick<VmRequest, 'signal' | 'tell'>;
	readonly vm: Session;
	readonly run: Run;
}

/** How fast a chain may change, and how long that may take. */
export interface ChainPace {
	/** Bytes per second for each disk. Lifted where the job would not come to its end with it. */
	readonly speed?: number | undefined;
	/** By then each job has to have done its work, and an active commit to have caught up with the guest. */
	readonly deadlineMs?: number | undefined;
}

/** What any change of chains says on its way. */
export type ChainNews =
	| {readonly kind: 'warning'; readonly text: string}
	| {readonly kind: 'progress'; readonly disks: readonly DiskProgress[]};

function newsOf(jobs: readonly ChainJob[], message: Exclude<ChainJobsMessage, {kind: 'completing'}>): ChainNews {
	if (message.kind === 'unlimited') {
		return {kind: 'warning', text: `${message.label}: would not come to its end at that speed, which is lifted`};
	}
	const disks = message.jobs.map(({id, current, total}) => ({
		disk: jobs.find(job => job.id === id)?.label ?? id,
		doneBytes: current,
		totalBytes: total,
	}));
	return {kind: 'progress', disks};
}

/** What is done around the jobs of a change. */
export interface ChainSteps<Ending extends string> {
	/** Has to start exactly these jobs. */
	readonly start: () => Promise<void>;
	/** Once all wait for us. Returns in words what of the bitmaps is lost. */
	readonly carry: () => Promise<readonly string[]>;
	/** What it is called when there is no way back. */
	readonly ending: Ending;
}

/** Runs the jobs of a change to their real end. Cold. What is undone after a failure is for the caller. */
export function runChange<Ending extends string>(
	{request, vm}: {readonly request: Pick<VmRequest, 'signal'>; readonly vm: Pick<Session, 'qmp'>},
	jobs: readonly ChainJob[],
	{start, carry, ending}: ChainSteps<Ending>,
	{speed, deadlineMs}: ChainPace,
): Observable<ChainNews | {readonly kind: Ending}> {
	return defer(() => {
		let lost: readonly string[] = [];
		const whenWaiting = async (): Promise<void> => {
			lost = await carry();
		};
		const options = {watchers$: [aborted(request.signal)], deadlineMs, limited: speed !== undefined};
		return runChainJobs(vm.qmp, jobs, {start, whenWaiting}, options).pipe(
			concatMap(message =>
				message.kind === 'completing'
					? [...lost.map(text => ({kind: 'warning' as const, text})), {kind: ending}]
					: [newsOf(jobs, message)],
			),
		);
	});
}

/** QEMU's refusal of a job, said of the disk. */
export function refusal(disk: string, what: 'commit' | 'stream', error: unknown): unknown {
	if (!(error instanceof QmpCommandError)) return error;
	return new QuiesceError('REFUSED', `${disk}: no ${what} is possible: ${error.message}`, {
		cause: error,
		hint: 'Another job on the disk, a base that may only be read, or one that another disk uses is in the way.',
	});
}

/** Cancels those that there are. */
export async function cancelJobs(qmp: QmpConnection, jobs: readonly ChainJob[]): Promise<void> {
	const ids = new Set(jobs.map(({id}) => id));
	await endJobs(
		qmp,
		(await qmp.execute('query-jobs')).filter(({id}) => ids.has(id)),
	);
}
