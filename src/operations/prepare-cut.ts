import {devicePath} from '../block/devices.ts';
import {objectName} from '../block/names.ts';
import {capabilitiesOf} from '../block/probe.ts';
import type {Cut, CutContext, CutDisk} from '../cut/cut.ts';
import {
	type FleeceContext,
	type FleeceDisk,
	prepareFleece,
	prepareFleecedView,
	type ViewedDisk,
} from '../cut/fleece.ts';
import {preparePush} from '../cut/push.ts';
import type {Sink} from '../sink/sink.ts';
import {scratchFolders} from './choose-method.ts';
import type {CopyTask} from './copy-task.ts';
import type {DiskCopy} from './plan-copies.ts';
import {noteScratch} from './scratch-note.ts';
import type {DiskWithMedium} from './select-disks.ts';

const DEFAULT_MAX_STALL_SECONDS = 2;

/** Makes everything ready for the cut, in the way that was chosen. */
export async function prepareCut(task: CopyTask, sink: Sink): Promise<Cut> {
	const {request, run, copies, chosen} = task;
	await noteScratch(run.folder, scratchFolders(chosen));
	const context = contextOf(task, {
		compress: sink.jobCompresses,
		speedBytesPerSecond: request.speedBytesPerSecond,
	});
	if (chosen.method !== 'push') {
		const fleeced = copies.map((copy): FleeceDisk => ({
			...viewedDisk(task, copy),
			target: sink.nodeOf(copy.disk.name),
		}));
		return prepareFleece(context, fleeced);
	}
	const pushed = copies.map((copy): CutDisk => ({...cutDisk(run.id, copy), target: sink.nodeOf(copy.disk.name)}));
	return preparePush(context, pushed);
}

/** The same by `fleece`, for readers of our own. */
export async function prepareView(task: CopyTask): ReturnType<typeof prepareFleecedView> {
	await noteScratch(task.run.folder, scratchFolders(task.chosen));
	return prepareFleecedView(
		contextOf(task, {compress: false}),
		task.copies.map(copy => viewedDisk(task, copy)),
	);
}

/** Of a disk that is read as it was, what its cut goes by. */
export function viewedDisk({run, chosen}: Pick<CopyTask, 'run' | 'chosen'>, copy: DiskCopy): ViewedDisk {
	return {
		...cutDisk(run.id, copy),
		sizeBytes: copy.disk.medium.virtualSize,
		device: deviceOf(copy.disk, chosen.scratchFolders.get(copy.disk.name)),
	};
}

function cutDisk(run: string, {disk: {name, medium}, parent, granularity}: DiskCopy): Omit<CutDisk, 'target'> {
	return {
		...{name, node: medium.node, changes: parent?.changes},
		recording: granularity === undefined ? undefined : {name: objectName(run, name, 'bitmap'), granularity},
	};
}

function contextOf(
	{request, vm, run, copies, qemuUid}: CopyTask,
	rest: Pick<CutContext, 'compress' | 'speedBytesPerSecond'>,
): FleeceContext {
	const hasThreads = copies.some(({disk}) => disk.iothread !== undefined);
	const can = capabilitiesOf(vm.schema, vm.qmp.version);
	return {
		...{qmp: vm.qmp, run: run.id, ...rest},
		schema: vm.schema,
		maxStallSeconds: request.maxStallSeconds ?? DEFAULT_MAX_STALL_SECONDS,
		running: vm.running,
		by: can['pull-with-iothreads'].available || !hasThreads ? 'gates' : 'pause',
		readsMayBeLong: can['snapshot-access-large-reads'].available,
		qemuUid,
	};
}

/** Undefined for a disk that the guest cannot write, which needs no scratch. */
function deviceOf({qdev, medium}: DiskWithMedium, scratchFolder: string | undefined): FleeceDisk['device'] {
	if (qdev === undefined || scratchFolder === undefined) return undefined;
	return {path: devicePath(qdev), root: medium.rootNode, scratchFolder};
}
