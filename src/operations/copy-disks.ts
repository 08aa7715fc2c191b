import {concat, concatMap, defer, EMPTY, from, map, type Observable, of} from 'rxjs';
import type {Cut, CutMethod} from '../cut/cut.ts';
import {JobError} from '../jobs/errors.ts';
import {type JobProgress, runJobs} from '../jobs/run-jobs.ts';
import {aborted} from '../rx/aborted.ts';
import {scoped} from '../rx/scoped.ts';
import type {Sink} from '../sink/sink.ts';
import type {BackupMessage, CutRecord, DiskProgress} from './backup-messages.ts';
import {scratchFolders} from './choose-method.ts';
import type {CopyTask} from './copy-task.ts';
import {prepareCut} from './prepare-cut.ts';
import {reachAgain} from './reach-again.ts';
import {takeCut} from './take-cut.ts';
import {unwindInside} from './unwind.ts';
import {watchSpace} from './watch-space.ts';
import {lostErrors} from './with-vm.ts';

/** A guest that runs may wait for a target with `push`, and gives up after 30 s (the Linux SCSI driver). */
export const TARGET_TIMEOUT_MS: Record<CutMethod, number> = {
	fleece: 300_000,
	push: 10_000,
	pull: 300_000,
	overlay: 300_000,
};

export type CopyMessage = Extract<BackupMessage, {kind: 'cut' | 'progress' | 'settling'}>;

/** Opens a sink for a run. Cold. On a failure the sink is given up before the run's nodes in QEMU are. */
export function withSink<Message>(
	task: CopyTask,
	open: () => Promise<Sink>,
	use: (sink: Sink) => Observable<Message>,
): Observable<Message> {
	const onLostError = lostErrors(task.request);
	return scoped({
		acquire: () => Promise.resolve(),
		release: (_, outcome) => (outcome === 'completed' ? EMPTY : unwind(task)),
		onLostError,
		use: () =>
			scoped({
				acquire: open,
				release: (sink, outcome) => (outcome === 'completed' ? EMPTY : abandon(task, sink)),
				onLostError,
				use,
			}),
	});
}

export interface CopyPlace {
	/** What the copy is called, for a group's record. */
	readonly called: string;
	/** Where the copy takes space on this host, if anywhere. */
	readonly folder?: string | undefined;
}

/**
 * Cuts all disks, copies them, and settles the sink; then `finish` says what there is to say. Cold. What it has begun is
 * undone by {@link withSink}.
 */
export function copyDisks<Message>(
	task: CopyTask,
	sink: Sink,
	{called, folder}: CopyPlace,
	finish: (record: CutRecord) => Promise<readonly Message[]>,
): Observable<CopyMessage | Message> {
	const {request, vm, chosen} = task;
	return defer(() => prepareCut(task, sink)).pipe(
		concatMap(cut => {
			let record: CutRecord | undefined;
			const start = async (): Promise<CutRecord> => {
				const taken = await takeCut(task, called, cut);
				await cut.copy();
				return taken;
			};
			const copied$ = runJobs(vm.qmp, cut.jobs, start, {
				watchers$: copyWatchers(task, sink, folder),
				stallMs: request.targetTimeoutMs ?? TARGET_TIMEOUT_MS[vm.power === 'on' ? chosen.method : 'fleece'],
			}).pipe(
				map((message): CopyMessage => {
					if (message.kind === 'progress') return {kind: 'progress', disks: progressOf(cut, message.jobs)};
					record = message.value;
					return {kind: 'cut', ...record};
				}),
			);
			const end = async (): Promise<readonly Message[]> => {
				if (!record) throw new Error('the jobs ended before the cut');
				return finish(record);
			};
			return concat(
				copied$,
				settleCopy(request, sink, () => cut.release(), end),
			);
		}),
	);
}

/** What ends a copy by failing, once the disks are cut. */
export function copyWatchers(
	{request, chosen}: CopyTask,
	sink: Sink,
	folder: string | undefined,
): readonly Observable<never>[] {
	return [
		aborted(request.signal),
		defer(() => from(sink.broken)),
		...(folder === undefined ? [] : [watchSpace(folder, 'Free some space, or name another place.')]),
		...scratchFolders(chosen).map(scratch =>
			watchSpace(scratch, 'Scratch is there: name another folder with --scratch.'),
		),
	];
}

/** Once all is copied: takes out of QEMU what the cut has there, has the sink close its files, and ends with what `finish` says. */
export function settleCopy<Message>(
	{signal}: CopyTask['request'],
	sink: Sink,
	release: () => Promise<void>,
	finish: () => Promise<readonly Message[]>,
): Observable<CopyMessage | Message> {
	const settled$ = defer(async () => {
		await release();
		await sink.settle();
		signal.throwIfAborted();
		return finish();
	}).pipe(concatMap(messages => messages));
	return concat(of({kind: 'settling' as const}), settled$);
}

function progressOf({jobs}: Cut, progress: readonly JobProgress[]): DiskProgress[] {
	return progress.map(({id, current, total}) => ({
		disk: jobs.find(job => job.id === id)?.label ?? id,
		doneBytes: current,
		totalBytes: total,
	}));
}

/** Leaves nothing of the run in QEMU. A guest that our own full target has stopped goes on. */
export async function unwind({request, vm, run}: Pick<CopyTask, 'request' | 'vm' | 'run'>): Promise<void> {
	await reachAgain(vm, async qmp => {
		await unwindInside(qmp, vm.schema, run.id);
		if (!vm.running || (await qmp.execute('query-status')).status !== 'io-error') return;
		await qmp.execute('cont');
		request.tell('the VM had been paused by an I/O error while the copy failed, and runs again');
	});
}

/** A job whose target hangs does not end before the target has gone; the scope around tries it again then. */
async function abandon(task: CopyTask, sink: Sink): Promise<void> {
	try {
		await unwind(task);
	} catch (error) {
		if (!(error instanceof JobError)) throw error;
	} finally {
		await sink.abandon();
	}
}
