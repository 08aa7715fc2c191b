import path from 'node:path';
import {concat, concatMap, defer, EMPTY, lastValueFrom, map, merge, type Observable, of, timeout} from 'rxjs';
import {objectName} from '../block/names.ts';
import {addOverlayNodes, type OverlaidDisk, overlayActions, removeOverlayNodes} from '../cut/external-snapshot.ts';
import {beginRecording} from '../cut/recording.ts';
import {timed} from '../cut/timed.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {QuiesceError} from '../errors.ts';
import {commitImage} from '../images/commit-image.ts';
import {finishImage, holdImage, type ImageCopy} from '../images/copy-image.ts';
import {syncFile} from '../repository/durable-files.ts';
import {imageFileName} from '../repository/layout.ts';
import {createPartialPoint, type PartialPoint} from '../repository/partial-point.ts';
import {aborted} from '../rx/aborted.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {scoped} from '../rx/scoped.ts';
import {createOverlay, removeFile, stateOfOverlay} from '../snapshots/overlay-file.ts';
import type {BackupMessage, CutRecord, DiskProgress} from './backup-messages.ts';
import {commitOverlays} from './commit-overlays.ts';
import {TARGET_TIMEOUT_MS, unwind} from './copy-disks.ts';
import {cutFrozen} from './frozen-cut.ts';
import {hashImages} from './hash-images.ts';
import {keepBitmaps, markRecordings} from './keep-bitmaps.ts';
import {type OverlayDisk, overlayFile} from './overlay-disks.ts';
import type {PointTask} from './point-task.ts';
import {reachAgain} from './reach-again.ts';
import {sinkDiskOf, type WrittenBytes} from './store-copies.ts';
import {abandonPoint, finishPoint} from './take-point.ts';
import {watchSpace} from './watch-space.ts';
import {lostErrors} from './with-vm.ts';

const DEFAULT_CLUSTER = 64 * 1024;

/** What a disk needs on the way. */
interface Overlaid extends OverlayDisk {
	readonly overlay: {readonly node: string; readonly file: string};
	readonly copy: ImageCopy;
}

/** The inodes of the overlays' files. */
type Made = Map<string, number>;

/**
 * Has the guest write to overlays for as long as its images are copied by something else than QEMU; then what it has
 * written is committed into them, and they are its disks again. That is done on every path, before anything else is.
 */
export function takeOverlayPoint(task: PointTask, disks: readonly OverlayDisk[]): Observable<BackupMessage> {
	const {request, vm, run, repository} = task;
	const onLostError = lostErrors(request);
	return scoped({
		acquire: () => createPartialPoint(repository, vm.name, new Date(), run.id),
		release: (partial, outcome) => (outcome === 'completed' ? EMPTY : abandonPoint(task, partial)),
		onLostError,
		use: partial =>
			scoped({
				acquire: () => Promise.resolve(disks.map(disk => overlaidDisk(task, partial, disk))),
				release: (_, outcome) => (outcome === 'completed' ? EMPTY : unwind(task)),
				onLostError,
				use: overlaid => copyAndFinish(task, partial, overlaid),
			}),
	});
}

function overlaidDisk({request, run}: PointTask, partial: PartialPoint, disk: OverlayDisk): Overlaid {
	const {base, copyBy} = disk;
	return {
		...disk,
		overlay: {node: objectName(run.id, disk.disk.name, 'overlay'), file: overlayFile(run.id, disk)},
		copy: {
			...{
				by: copyBy,
				source: base.file,
				sourceFormat: base.format,
				target: partial.path(imageFileName(disk.disk.fileName)),
			},
			...{compression: request.compression, command: request.copyCommand, signal: request.signal},
		},
	};
}

function copyAndFinish(task: PointTask, partial: PartialPoint, disks: readonly Overlaid[]): Observable<BackupMessage> {
	let record: CutRecord | undefined;
	const held$ = scoped({
		acquire: (): Promise<Made> => Promise.resolve(new Map<string, number>()),
		release: made => takeOverlaysAway(task, disks, made),
		onLostError: lostErrors(task.request),
		use: made =>
			defer(async (): Promise<Observable<BackupMessage>> => {
				record = await cutToOverlays(task, partial, disks, made);
				return concat(of({kind: 'cut' as const, ...record}), holdAll(task, disks));
			}).pipe(concatMap(messages$ => messages$)),
	});
	const finished$ = defer(() => {
		if (!record) throw new Error('the images were held before the cut');
		return finish(task, partial, disks, record);
	}).pipe(concatMap(messages => messages));
	return concat(held$, of({kind: 'settling' as const}), finished$);
}

async function cutToOverlays(
	task: PointTask,
	partial: PartialPoint,
	disks: readonly Overlaid[],
	made: Made,
): Promise<CutRecord> {
	const {request, vm, run, copies, quiescer} = task;
	const overlaid = disks.map(({disk: {name, medium}, overlay}): OverlaidDisk => ({
		...{name, node: medium.node, overlay},
		// Those of the image go on there: what the guest writes meanwhile is written to it at the end.
		bitmaps: [],
	}));
	for (const {disk, base, overlay} of disks) {
		const {virtualSize: sizeBytes, clusterSize, format} = disk.medium;
		const clusterBytes = format === 'qcow2' && clusterSize !== undefined ? clusterSize : DEFAULT_CLUSTER;
		made.set(overlay.file, await createOverlay({file: overlay.file, base, sizeBytes, clusterBytes}));
	}
	request.signal.throwIfAborted();
	await addOverlayNodes({qmp: vm.qmp, run: run.id}, overlaid);
	// The bitmaps that begin are on the images too: they get what the commit writes, and nothing before.
	const recordings = beginRecording(
		copies.map(({disk: {name, medium}, granularity}) => ({
			...{name, node: medium.node, target: ''},
			recording: granularity === undefined ? undefined : {name: objectName(run.id, name, 'bitmap'), granularity},
		})),
	);
	const actions = [...recordings, ...overlayActions(overlaid)];
	const record = await cutFrozen({...request, called: partial.id}, quiescer, async () => {
		const ms = await timed(() => vm.qmp.execute('transaction', {actions}));
		return {standstill: {of: 'disks', seconds: ms / 1000}};
	});
	if (quiescer && request.quiesce === 'require' && record.degraded !== undefined) throw new AgentError(record.degraded);
	return record;
}

/** The guest writes to the overlays meanwhile, so this is to be short. */
function holdAll({request, repository}: PointTask, disks: readonly Overlaid[]): Observable<BackupMessage> {
	const stallMs = request.targetTimeoutMs ?? TARGET_TIMEOUT_MS.overlay;
	const progress = new Map(
		disks.map(({disk: {name, medium}}): [string, DiskProgress] => [
			name,
			{disk: name, doneBytes: 0, totalBytes: medium.virtualSize},
		]),
	);
	const hold = ({disk: {name, medium}, copy}: Overlaid): Observable<BackupMessage> => {
		const done$ = holdImage(copy);
		const stalled = (): Observable<never> => {
			throw new QuiesceError('FAILED', `${name}: the copy made no progress for ${stallMs / 1000} s`);
		};
		return (copy.by === 'convert' ? done$.pipe(timeout({each: stallMs, with: stalled})) : done$).pipe(
			map((done): BackupMessage => {
				progress.set(name, {
					disk: name,
					doneBytes: Math.round(done * medium.virtualSize),
					totalBytes: medium.virtualSize,
				});
				return {kind: 'progress', disks: [...progress.values()]};
			}),
		);
	};
	const folders = new Set(disks.map(({overlay}) => path.dirname(overlay.file)));
	return merge(...disks.map(hold)).pipe(
		guardedBy(
			aborted(request.signal),
			watchSpace(repository.path, 'Free some space, or name another repository.'),
			...Array.from(folders, folder => watchSpace(folder, 'What the guest writes meanwhile is kept there.')),
		),
	);
}

async function finish(
	task: PointTask,
	partial: PartialPoint,
	disks: readonly Overlaid[],
	record: CutRecord,
): Promise<BackupMessage[]> {
	const {request, run, copies} = task;
	const marked = await markRecordings(task);
	await lastValueFrom(merge(...disks.map(({copy, disk}) => finishImage(copy, disk.medium.virtualSize))), {
		defaultValue: undefined,
	});
	const written: WrittenBytes = new Map();
	if (request.hashes !== 'none') {
		await hashImages(
			run.folder,
			copies.map(copy => sinkDiskOf(task, partial, copy, written)),
			request,
		);
	}
	const point = await finishPoint(task, partial, record, {marked, written});
	// What is not hashed stands aside: increments go on from the point before.
	const problems = request.hashes === 'none' ? [] : await keepBitmaps(task, point);
	return [
		...problems.map(text => ({kind: 'warning' as const, text})),
		{kind: 'finished', manifest: point.manifest, folder: point.folder},
	];
}

/** Also where QEMU has gone: what the guest wrote last is in the overlays alone. */
async function takeOverlaysAway({request, vm, run}: PointTask, disks: readonly Overlaid[], made: Made): Promise<void> {
	const reached = await reachAgain(vm, async qmp => {
		await commitOverlays({...vm, qmp, readGraph: () => vm.readGraph(qmp)}, run.id, request.tell);
		await removeOverlayNodes(
			qmp,
			disks.map(({overlay}) => overlay.node),
		);
		return true;
	});
	for (const {disk, base, overlay} of disks) {
		const inode = made.get(overlay.file);
		const state = inode === undefined ? 'absent' : await stateOfOverlay({file: overlay.file, inode});
		if (state === 'absent') continue;
		if (state === 'foreign' || (state === 'written' && reached)) {
			throw new QuiesceError('FAILED', `${disk.name}: left ${overlay.file}, which is another file by now, or in use`);
		}
		if (state === 'unused') {
			await removeFile(overlay.file);
			continue;
		}
		await commitImage(overlay.file, {baseFormat: base.format});
		await syncFile(base.file);
		await removeFile(overlay.file);
		request.tell(`QEMU has ended: what the guest wrote to ${disk.name} during the copy is in ${base.file} by now`);
	}
}
