import {performance} from 'node:perf_hooks';
import {setTimeout as delay} from 'node:timers/promises';
import {concat, concatMap, defer, type Observable, of} from 'rxjs';
import {JobError} from '../jobs/errors.ts';
import {NbdClient} from '../nbd/client.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {streamTask} from '../rx/task-stream.ts';
import type {Sink} from '../sink/sink.ts';
import type {CutRecord, DiskProgress} from './backup-messages.ts';
import {type CopyMessage, type CopyPlace, copyWatchers, settleCopy, TARGET_TIMEOUT_MS} from './copy-disks.ts';
import type {CopyTask} from './copy-task.ts';
import {type DiskReader, openReaders, type Readers} from './open-readers.ts';
import {prepareView} from './prepare-cut.ts';
import {pullDisk} from './pull-disk.ts';
import {takeCut} from './take-cut.ts';
import {removeExports} from './unwind.ts';

const PROGRESS_MS = 500;

/**
 * As `copyDisks`, without a job of QEMU: it shows the disks as they were at the cut, and a client of ours reads them, and
 * writes to the sink. Cold. What it has begun is undone by `withSink`.
 */
export function pullDisks<Message>(
	task: CopyTask,
	sink: Sink,
	{called, folder}: CopyPlace,
	finish: (record: CutRecord) => Promise<readonly Message[]>,
): Observable<CopyMessage | Message> {
	const {request, vm, run} = task;
	return defer(() => prepareView(task)).pipe(
		concatMap(view => {
			const taken$ = defer(async () => {
				const record = await takeCut(task, called, view);
				await view.show();
				return record;
			});
			const release = async (): Promise<void> => {
				// They are on what the view has.
				await removeExports(vm.qmp, run.id);
				await view.release();
			};
			return taken$.pipe(
				concatMap(record =>
					concat(
						of({kind: 'cut' as const, ...record}),
						streamTask<CopyMessage>(undefined, (emit, signal) => pullAll(task, sink, emit, signal)).pipe(
							guardedBy(...copyWatchers(task, sink, folder)),
						),
						settleCopy(request, sink, release, () => finish(record)),
					),
				),
			);
		}),
	);
}

async function pullAll(
	task: CopyTask,
	sink: Sink,
	emit: (message: CopyMessage) => void,
	signal: AbortSignal,
): Promise<void> {
	const stallMs = task.request.targetTimeoutMs ?? TARGET_TIMEOUT_MS.pull;
	const stalled = new AbortController();
	const timer = setTimeout(() => {
		stalled.abort(
			new JobError(`the copy made no progress for ${Math.round(stallMs / 1000)} s`, {
				hint: 'The target hangs, or is too slow. --target-timeout says how long to wait.',
			}),
		);
	}, stallMs);
	const either = AbortSignal.any([signal, stalled.signal]);
	const progress = new Map<string, DiskProgress>();
	const show = (): void => {
		emit({kind: 'progress', disks: [...progress.values()]});
	};
	const shown = setInterval(show, PROGRESS_MS);
	let readers: Readers | undefined;
	try {
		readers = await openReaders(task, either);
		const pulling = readers.disks.map(reader =>
			pullTo(reader, sink, task.request.speedBytesPerSecond, either, done => {
				timer.refresh();
				progress.set(done.disk, done);
			}),
		);
		// No buffer is in use, and nothing is written, once this has ended.
		await Promise.allSettled(pulling);
		await Promise.all(pulling);
		show();
	} finally {
		clearTimeout(timer);
		clearInterval(shown);
		await readers?.close();
	}
}

async function pullTo(
	reader: DiskReader,
	sink: Sink,
	speed: number | undefined,
	signal: AbortSignal,
	onProgress: (done: DiskProgress) => void,
): Promise<void> {
	const {copy} = reader;
	const {name: disk, medium} = copy.disk;
	const {socket, name} = sink.exportOf(disk);
	const totalBytes = copy.parent?.bytes ?? medium.virtualSize;
	const began = performance.now();
	let doneBytes = 0;
	const target = await NbdClient.connect({unix: socket}, name, {signal});
	try {
		await pullDisk(reader, target, async bytes => {
			doneBytes += bytes;
			onProgress({disk, doneBytes: Math.min(doneBytes, totalBytes), totalBytes});
			if (speed === undefined) return;
			const ahead = (doneBytes / speed) * 1000 - (performance.now() - began);
			if (ahead > 0) await delay(ahead, undefined, {signal});
		});
	} finally {
		await target.close();
	}
}
