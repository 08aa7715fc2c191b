import {devicePath} from '../block/devices.ts';
import {objectName} from '../block/names.ts';
import {capabilitiesOf} from '../block/probe.ts';
import type {Cut, CutContext, CutDisk} from '../cut/cut.ts';
import {type FleeceDisk, prepareFleece} from '../cut/fleece.ts';
import {preparePush} from '../cut/push.ts';
import type {Sink} from '../sink/sink.ts';
import type {CopyTask} from './copy-task.ts';
import type {DiskCopy} from './plan-copies.ts';
import type {DiskWithMedium} from './select-disks.ts';

const DEFAULT_MAX_STALL_SECONDS = 2;

/** Makes everything ready for the cut, in the way that was chosen. */
export async function prepareCut({request, vm, run, copies, chosen, qemuUid}: CopyTask, sink: Sink): Promise<Cut> {
	const context: CutContext = {
		qmp: vm.qmp,
		run: run.id,
		compress: sink.jobCompresses,
		speedBytesPerSecond: request.speedBytesPerSecond,
	};
	const cutOf = ({disk: {name, medium}, parent, granularity}: DiskCopy): CutDisk => ({
		...{name, node: medium.node, target: sink.nodeOf(name), changes: parent?.changes},
		recording: granularity === undefined ? undefined : {name: objectName(run.id, name, 'bitmap'), granularity},
	});
	if (chosen.method === 'push') return preparePush(context, copies.map(cutOf));
	const fleeced = copies.map((copy): FleeceDisk => ({
		...cutOf(copy),
		sizeBytes: copy.disk.medium.virtualSize,
		device: deviceOf(copy.disk, chosen.scratchFolders.get(copy.disk.name)),
	}));
	const hasThreads = copies.some(({disk}) => disk.iothread !== undefined);
	const can = capabilitiesOf(vm.schema, vm.qmp.version);
	return prepareFleece(
		{
			...context,
			schema: vm.schema,
			maxStallSeconds: request.maxStallSeconds ?? DEFAULT_MAX_STALL_SECONDS,
			running: vm.running,
			by: can['pull-with-iothreads'].available || !hasThreads ? 'gates' : 'pause',
			readsMayBeLong: can['snapshot-access-large-reads'].available,
			qemuUid,
		},
		fleeced,
	);
}

/** Undefined for a disk that the guest cannot write, which needs no scratch. */
function deviceOf({qdev, medium}: DiskWithMedium, scratchFolder: string | undefined): FleeceDisk['device'] {
	if (qdev === undefined || scratchFolder === undefined) return undefined;
	return {path: devicePath(qdev), root: medium.rootNode, scratchFolder};
}
