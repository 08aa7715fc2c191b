import {concat, concatMap, defer, EMPTY, from, map, type Observable, of} from 'rxjs';
import type {Cut, CutMethod} from '../cut/cut.ts';
import {QuiesceError} from '../errors.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {storageAnswers} from '../host/storage-answers.ts';
import {JobError} from '../jobs/errors.ts';
import {type JobProgress, runJobs} from '../jobs/run-jobs.ts';
import type {PointManifest} from '../repository/manifest.ts';
import {createPartialPoint, type PartialPoint} from '../repository/partial-point.ts';
import type {Point} from '../repository/points.ts';
import {aborted} from '../rx/aborted.ts';
import {scoped} from '../rx/scoped.ts';
import {openDaemonSink} from '../sink/daemon.ts';
import {openInlineSink} from '../sink/inline.ts';
import type {OpenSink, Sink, SinkName} from '../sink/sink.ts';
import type {BackupMessage, CutRecord, DiskProgress} from './backup-messages.ts';
import {scratchFolders} from './choose-method.ts';
import {cutFrozen} from './frozen-cut.ts';
import {gatherChanges, keepBitmaps, markRecordings} from './keep-bitmaps.ts';
import {clearPausing, markPausing} from './pause-marker.ts';
import type {PointTask} from './point-task.ts';
import {prepareCut} from './prepare-cut.ts';
import {reachAgain} from './reach-again.ts';
import {unwindInside} from './unwind.ts';
import {type CopyFacts, draftOf, sinkDiskOf, type WrittenBytes} from './store-copies.ts';
import {watchSpace} from './watch-space.ts';
import {lostErrors} from './with-vm.ts';
import {programVersion} from '../version.ts';

const SINKS: Record<SinkName, OpenSink> = {daemon: openDaemonSink, inline: openInlineSink};
/** A guest that runs may wait for a target with `push`, and gives up after 30 s (the Linux SCSI driver). */
export const TARGET_TIMEOUT_MS: Record<CutMethod, number> = {fleece: 300_000, push: 10_000, overlay: 300_000};
/** Longer than any pause takes; then the run counts as hung. */
const PAUSE_MS = 5_000;

/**
 * The partial point around the nodes in QEMU around the sink around the jobs: on a failure each is undone before the
 * one around it.
 */
export function takePoint(task: PointTask): Observable<BackupMessage> {
	const {request, vm, run, repository} = task;
	const onLostError = lostErrors(request);
	const written: WrittenBytes = new Map();
	return scoped({
		acquire: () => createPartialPoint(repository, vm.name, new Date(), run.id),
		release: (partial, outcome) => (outcome === 'completed' ? EMPTY : abandonPoint(task, partial)),
		onLostError,
		use: partial =>
			scoped({
				acquire: () => Promise.resolve(),
				release: (_, outcome) => (outcome === 'completed' ? EMPTY : unwind(task)),
				onLostError,
				use: () =>
					scoped({
						acquire: () => openSink(task, partial, written),
						release: (sink, outcome) => (outcome === 'completed' ? EMPTY : abandon(task, sink)),
						onLostError,
						use: sink => copyAndSettle(task, partial, sink, written),
					}),
			}),
	});
}

function openSink(task: PointTask, partial: PartialPoint, written: WrittenBytes): Promise<Sink> {
	const {request, vm, run, copies, qemuUid} = task;
	return SINKS[request.sink]({
		qmp: vm.qmp,
		run: run.id,
		folder: run.folder,
		disks: copies.map(copy => sinkDiskOf(task, partial, copy, written)),
		compression: request.compression,
		qemuUid,
		transcript: request.transcript,
		signal: request.signal,
	});
}

function copyAndSettle(
	task: PointTask,
	partial: PartialPoint,
	sink: Sink,
	written: WrittenBytes,
): Observable<BackupMessage> {
	const {request, vm, chosen, repository} = task;
	return defer(async () => {
		await gatherChanges(task);
		return prepareCut(task, sink);
	}).pipe(
		concatMap(cut => {
			let record: CutRecord | undefined;
			const start = async (): Promise<CutRecord> => {
				const taken = await takeCut(task, partial, cut);
				await cut.copy();
				return taken;
			};
			const copied$ = runJobs(vm.qmp, cut.jobs, start, {
				watchers$: [
					aborted(request.signal),
					defer(() => from(sink.broken)),
					watchSpace(repository.path, 'Free some space, or name another repository.'),
					...scratchFolders(chosen).map(folder =>
						watchSpace(folder, 'Scratch is there: name another folder with --scratch.'),
					),
				],
				stallMs: request.targetTimeoutMs ?? TARGET_TIMEOUT_MS[vm.power === 'on' ? chosen.method : 'fleece'],
			}).pipe(
				map((message): BackupMessage => {
					if (message.kind === 'progress') return {kind: 'progress', disks: progressOf(cut, message.jobs)};
					record = message.value;
					return {kind: 'cut', ...record};
				}),
			);
			const settled$ = defer(async (): Promise<BackupMessage[]> => {
				if (!record) throw new Error('the jobs ended before the cut');
				await cut.release();
				await sink.settle();
				request.signal.throwIfAborted();
				const marked = await markRecordings(task);
				const point = await finishPoint(task, partial, record, {marked, written});
				const problems = await keepBitmaps(task, point);
				return [
					...problems.map(text => ({kind: 'warning' as const, text})),
					{kind: 'finished', manifest: point.manifest, folder: point.folder},
				];
			}).pipe(concatMap(messages => messages));
			return concat(copied$, of({kind: 'settling' as const}), settled$);
		}),
	);
}

/** Lets the point appear, once all is copied and in its folder. */
export function finishPoint(task: PointTask, partial: PartialPoint, cut: CutRecord, facts: CopyFacts): Promise<Point> {
	const {request, vm, copies, skipped, warnings, machine, chosen, member} = task;
	return partial.finish(
		{
			uuid: vm.uuid ?? null,
			cutAt: cut.at,
			consistency: cut.consistency,
			freeze: cut.freeze,
			standstill: cut.standstill,
			group: cut.group,
			qemu: {version: vm.version, package: vm.qmp.version.package, process: task.qemuProcess},
			tool: {version: programVersion()},
			method: chosen.method,
			...howStored(task),
			disks: copies.map(copy => draftOf(task, partial, copy, facts)),
			skipped,
			warnings: cut.degraded === undefined ? warnings : [...warnings, cut.degraded],
		},
		machine,
		{signal: request.signal, beforeAppearing: () => member.readyToAppear()},
	);
}

/** Under `require` anything less than a sound freeze fails. */
async function takeCut(task: PointTask, {id}: PartialPoint, cut: Cut): Promise<CutRecord> {
	const {request, quiescer, vm} = task;
	const {power} = vm;
	const record = await cutFrozen({...request, power, called: id}, quiescer, async () => {
		const {stood, ms} = await (cut.pauses ? whileWatched(task, () => cut.take()) : cut.take());
		return {standstill: power === 'on' ? {of: stood, seconds: ms / 1000} : null};
	});
	if (quiescer && request.quiesce === 'require' && record.degraded !== undefined) throw new AgentError(record.degraded);
	return record;
}

/** While `pausing` may have the VM paused, our death is followed by its going on: by the guard's doing, or the next run's. */
async function whileWatched<Value>(task: PointTask, pausing: () => Promise<Value>): Promise<Value> {
	const {run, guard} = task;
	await markPausing(run.folder);
	await guard.watchPause(PAUSE_MS);
	const stopWatching = async (): Promise<void> => {
		await guard.pauseOver();
		await clearPausing(run.folder);
	};
	try {
		const value = await pausing();
		await stopWatching();
		return value;
	} catch (error) {
		// The agent of a paused VM cannot thaw it. Until it is sure to run again, the guard has to see to it.
		await resumeSurely(task);
		await stopWatching();
		throw error;
	}
}

/** The command that resumes the VM may have been lost with the connection. */
async function resumeSurely({vm}: PointTask): Promise<void> {
	await reachAgain(vm, async qmp => {
		if ((await qmp.execute('query-status')).status === 'paused') await qmp.execute('cont');
	});
}

function progressOf({jobs}: Cut, progress: readonly JobProgress[]): DiskProgress[] {
	return progress.map(({id, current, total}) => ({
		disk: jobs.find(job => job.id === id)?.label ?? id,
		doneBytes: current,
		totalBytes: total,
	}));
}

/** An image whose data is shared is not written, and so not compressed. */
export function howStored({
	request,
	chosen,
}: Pick<PointTask, 'request' | 'chosen'>): Pick<PointManifest, 'sink' | 'compression'> {
	const {overlays} = chosen;
	if (!overlays) return {sink: request.sink, compression: request.compression};
	const ways = new Set(overlays.map(({copyBy}) => copyBy));
	return {sink: [...ways].join(' and '), compression: ways.has('convert') ? request.compression : 'none'};
}

/** On a file system that hangs, the removal would hold this process, and nothing could end it. */
export async function abandonPoint({repository}: PointTask, partial: PartialPoint): Promise<void> {
	if (await storageAnswers(repository.path)) return partial.abandon();
	throw new QuiesceError('FAILED', `${repository.path} does not answer, so the unfinished point stays there`, {
		hint: 'The next run removes it.',
	});
}

/** Leaves nothing of the run in QEMU. A guest that our own full target has stopped goes on. */
export async function unwind({request, vm, run}: PointTask): Promise<void> {
	await reachAgain(vm, async qmp => {
		await unwindInside(qmp, vm.schema, run.id);
		if (!vm.running || (await qmp.execute('query-status')).status !== 'io-error') return;
		await qmp.execute('cont');
		request.tell('the VM had been paused by an I/O error while the copy failed, and runs again');
	});
}

/** A job whose target hangs does not end before the target has gone; the scope around tries it again then. */
async function abandon(task: PointTask, sink: Sink): Promise<void> {
	try {
		await unwind(task);
	} catch (error) {
		if (!(error instanceof JobError)) throw error;
	} finally {
		await sink.abandon();
	}
}
