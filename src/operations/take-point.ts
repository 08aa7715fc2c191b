import {concat, defer, EMPTY, ignoreElements, type Observable} from 'rxjs';
import {QuiesceError} from '../errors.ts';
import {storageAnswers} from '../host/storage-answers.ts';
import type {PointManifest} from '../repository/manifest.ts';
import {createPartialPoint, type PartialPoint} from '../repository/partial-point.ts';
import type {Point} from '../repository/points.ts';
import {scoped} from '../rx/scoped.ts';
import {openDaemonSink} from '../sink/daemon.ts';
import {openInlineSink} from '../sink/inline.ts';
import type {OpenSink, Sink, SinkName} from '../sink/sink.ts';
import {programVersion} from '../version.ts';
import type {BackupMessage, CutRecord} from './backup-messages.ts';
import {copyDisks, withSink} from './copy-disks.ts';
import {pullDisks} from './pull-disks.ts';
import {gatherChanges, keepBitmaps, markRecordings} from './keep-bitmaps.ts';
import type {PointTask} from './point-task.ts';
import {NO_HOOKS} from './run-hooks.ts';
import {type CopyFacts, draftOf, sinkDiskOf, type WrittenBytes} from './store-copies.ts';
import {lostErrors} from './with-vm.ts';

const SINKS: Record<SinkName, OpenSink> = {daemon: openDaemonSink, inline: openInlineSink};

/**
 * The partial point around the nodes in QEMU around the sink around the jobs: on a failure each is undone before the
 * one around it.
 */
export function takePoint(task: PointTask): Observable<BackupMessage> {
	const {request, vm, run, repository} = task;
	const written: WrittenBytes = new Map();
	return scoped({
		acquire: () => createPartialPoint(repository, vm.name, new Date(), run.id),
		release: (partial, outcome) => (outcome === 'completed' ? EMPTY : abandonPoint(task, partial)),
		onLostError: lostErrors(request),
		use: partial =>
			withSink(
				task,
				() => openSink(task, partial, written),
				sink =>
					concat(
						defer(() => gatherChanges(task)).pipe(ignoreElements()),
						(task.chosen.method === 'pull' ? pullDisks : copyDisks)(
							task,
							sink,
							{called: partial.id, folder: repository.path},
							record => finish(task, partial, record, written),
						),
					),
			),
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
		writer: task.chosen.method === 'pull' ? 'client' : 'qemu',
		transcript: request.transcript,
		signal: request.signal,
	});
}

async function finish(
	task: PointTask,
	partial: PartialPoint,
	record: CutRecord,
	written: WrittenBytes,
): Promise<BackupMessage[]> {
	const marked = await markRecordings(task);
	const point = await finishPoint(task, partial, record, {marked, written});
	const problems = await keepBitmaps(task, point);
	return [
		...problems.map(text => ({kind: 'warning' as const, text})),
		{kind: 'finished', manifest: point.manifest, folder: point.folder},
	];
}

/** Lets the point appear, once all is copied and in its folder. */
export function finishPoint(task: PointTask, partial: PartialPoint, cut: CutRecord, facts: CopyFacts): Promise<Point> {
	const {request, vm, copies, skipped, warnings, machine, chosen} = task;
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
		{signal: request.signal, beforeAppearing: () => readyToAppear(task)},
	);
}

/** All is there, and nothing seen. */
async function readyToAppear({request: {hooks = NO_HOOKS, signal}, member}: PointTask): Promise<void> {
	await hooks.at('copied', signal);
	await member.readyToAppear();
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
