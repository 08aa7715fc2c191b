import {objectName, runOf} from '../block/names.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import type {QmpBlockdevOptions, QmpTransactionAction} from '../qmp/schema.ts';
import {backupAction} from './backup-action.ts';
import type {Cut, CutContext, CutDisk} from './cut.ts';
import {gateNode, moveGates} from './gates.ts';
import {whilePaused} from './pause.ts';
import {putDevicesBack} from './put-devices-back.ts';
import {beginRecording} from './recording.ts';
import {addScratch} from './scratch.ts';
import {timed} from './timed.ts';

const UNLIMITED = 0;

/** In which the filter keeps account, over scratch that is a plain file (block/block-copy.c). */
export const CLUSTER_BYTES = 64 * 1024;

/** `cbw-timeout` is in seconds, and more than 4 overflow in QEMU 7.2 (block/copy-before-write.c). */
export const MAX_STALL_SECONDS = 4;

export interface FleeceDisk extends CutDisk {
	/** Undefined where the guest cannot write: then the disk is read as it is. */
	readonly device?:
		| {
				/** In QEMU's object model. */
				readonly path: string;
				/** The node that the device is on, above the format node or that itself. */
				readonly root: string;
				readonly scratchFolder: string;
		  }
		| undefined;
	readonly sizeBytes: number;
}

/** One that no job of ours copies. */
export type ViewedDisk = Omit<FleeceDisk, 'target'>;

export interface FleeceContext extends CutContext {
	readonly schema: QmpSchema;
	/** What a request of the guest may wait for scratch, after which the copy fails instead. Whole, 1 to 4. */
	readonly maxStallSeconds: number;
	/** A VM that was found paused stays so. */
	readonly running: boolean;
	/**
	 * How the filters come over all disks at one instant. `gates`: nodes of ours under the devices are turned to them by one
	 * command, and the guest runs on. `pause`: the devices are moved one by one while the VM stands still; for QEMU before
	 * 9.0 with I/O threads, where nodes must not be added above disks that run.
	 */
	readonly by: 'gates' | 'pause';
	/**
	 * Whether a read of old data may be longer than a cluster. QEMU 7.2 answers a read that begins in what the guest has
	 * overwritten, and goes on into what it has not, with new data (util/hbitmap.c hbitmap_status). No error tells of it.
	 */
	readonly readsMayBeLong: boolean;
	readonly qemuUid?: number | undefined;
}

/**
 * Filters between devices and disks copy old data to scratch before the guest overwrites it, and the jobs read disks and
 * scratch together as they were. The target's speed never reaches the guest. Scratch that fails, or takes longer than a
 * bound, breaks the copy and not the guest (`on-cbw-error`, `cbw-timeout`; 7.1). A filter captures nothing as long as no
 * device writes through it.
 */
export async function prepareFleece(context: FleeceContext, disks: readonly FleeceDisk[]): Promise<Cut> {
	const {qmp, run, compress, speedBytesPerSecond = UNLIMITED} = context;
	const {pauses, take, show, release} = await prepareAccess(context, disks);
	const jobs = disks.map(({name, target, changes, ...disk}) =>
		backupAction(run, {
			disk: name,
			source: accessTo(run, {name, ...disk}),
			target,
			bitmap: disk.device && changes ? objectName(run, name, 'changes') : changes?.name,
			filter: objectName(run, name, 'job'),
			compress,
			speedBytesPerSecond,
			maxChunkBytes: context.readsMayBeLong ? undefined : CLUSTER_BYTES,
		}),
	);
	return {
		jobs: disks.map(({name}) => ({id: objectName(run, name), label: name})),
		pauses,
		take,
		copy: async () => {
			await show();
			await qmp.execute('transaction', {actions: [...disks.flatMap(disk => copyOfChanges(run, disk)), ...jobs]});
		},
		release,
	};
}

/** A cut of which whoever reads takes what he likes. */
export interface CutView extends Pick<Cut, 'pauses' | 'take' | 'release'> {
	/** After the instant: lets the disks be seen as they were. */
	readonly show: () => Promise<void>;
}

/** The same instant without anybody who copies: whoever reads takes the nodes that {@link accessTo} names. */
export async function prepareFleecedView(context: FleeceContext, disks: readonly ViewedDisk[]): Promise<CutView> {
	const {pauses, take, show, release} = await prepareAccess(context, disks);
	return {
		pauses,
		take,
		release,
		show: async () => {
			await show();
			const actions = disks.flatMap(disk => copyOfChanges(context.run, disk));
			if (actions.length > 0) await context.qmp.execute('transaction', {actions});
		},
	};
}

/** The node on which a disk is read as it was. */
export function accessTo(run: string, {name, node, device}: Pick<ViewedDisk, 'name' | 'node' | 'device'>): string {
	return device ? objectName(run, name, 'access') : node;
}

async function prepareAccess(
	context: FleeceContext,
	disks: readonly ViewedDisk[],
): Promise<Instant & Pick<Cut, 'release'>> {
	const {qmp, run, schema} = context;
	const written = disks.flatMap(({name, device, sizeBytes}) => (device ? [{name, device, sizeBytes}] : []));
	for (const {name, sizeBytes, device} of written) {
		const node = objectName(run, name, 'scratch');
		await addScratch(qmp, {node, folder: device.scratchFolder, sizeBytes, ownerUid: context.qemuUid});
	}
	const recording = beginRecording(disks);
	// Before anything is frozen: it need not be the cut's own transaction, only not after it.
	if (recording.length > 0) await qmp.execute('transaction', {actions: recording});
	const instant = context.by === 'gates' ? await byGates(context, written) : byPause(context, written);
	return {
		...instant,
		release: async () => {
			const remove = async (role: 'access' | 'gate' | 'filter' | 'scratch'): Promise<void> => {
				for (const {name} of written) await qmp.execute('blockdev-del', {'node-name': objectName(run, name, role)});
			};
			await remove('access');
			await putDevicesBack(qmp, schema, node => runOf(node) === run);
			if (context.by === 'gates') await remove('gate');
			await remove('filter');
			await remove('scratch');
		},
	};
}

/**
 * A copy of what had changed, on the node that is read: a job takes its bitmap from there only. It is made after the cut, so
 * it may name clusters that changed since, which are then copied as they were; those that changed before it has all.
 */
function copyOfChanges(run: string, {name, node, device, changes}: ViewedDisk): QmpTransactionAction[] {
	if (!device || !changes) return [];
	const copy = {node: objectName(run, name, 'access'), name: objectName(run, name, 'changes')};
	return [
		{type: 'block-dirty-bitmap-add', data: {...copy, granularity: changes.granularity, disabled: true}},
		{
			type: 'block-dirty-bitmap-merge',
			data: {node: copy.node, target: copy.name, bitmaps: [{node, name: changes.name}]},
		},
	];
}

interface WrittenDisk {
	readonly name: string;
	readonly device: NonNullable<FleeceDisk['device']>;
}

interface Instant extends Pick<Cut, 'pauses' | 'take'> {
	/** After the instant, and before the jobs: lets them see the disks as they were. */
	readonly show: () => Promise<void>;
}

async function byGates(context: FleeceContext, disks: readonly WrittenDisk[]): Promise<Instant> {
	const {qmp, run} = context;
	for (const {name, device} of disks) {
		await qmp.execute('blockdev-add', filterNode(context, name, device.root));
		const gate = objectName(run, name, 'gate');
		await qmp.execute('blockdev-add', gateNode(gate, device.root));
		await qmp.execute('qom-set', {path: device.path, property: 'drive', value: gate});
	}
	const gates = disks.map(({name}) => ({gate: objectName(run, name, 'gate'), to: objectName(run, name, 'filter')}));
	return {
		pauses: false,
		take: async () => ({stood: 'disks', ms: await timed(() => moveGates(qmp, gates))}),
		show: async () => {
			for (const {name} of disks) await qmp.execute('blockdev-add', accessNode(run, name));
		},
	};
}

function byPause(context: FleeceContext, disks: readonly WrittenDisk[]): Instant {
	const {qmp, run, running} = context;
	const move = (): Promise<unknown>[] => [
		...disks.map(({name, device}) => qmp.execute('blockdev-add', filterNode(context, name, device.root))),
		...disks.map(({name, device: {path}}) =>
			qmp.execute('qom-set', {path, property: 'drive', value: objectName(run, name, 'filter')}),
		),
		...disks.map(({name}) => qmp.execute('blockdev-add', accessNode(run, name))),
	];
	const pauses = running && disks.length > 0;
	return {
		pauses,
		take: async () => {
			// Somebody may have paused it since.
			const runs = pauses && (await qmp.execute('query-status')).running;
			if (runs) return {stood: 'vm', ms: await timed(() => whilePaused(qmp, move))};
			return {stood: 'disks', ms: await timed(() => Promise.all(move()))};
		},
		show: () => Promise.resolve(),
	};
}

function filterNode({run, maxStallSeconds}: FleeceContext, disk: string, root: string): QmpBlockdevOptions {
	return {
		'driver': 'copy-before-write',
		'node-name': objectName(run, disk, 'filter'),
		'discard': 'unmap',
		'file': root,
		'target': objectName(run, disk, 'scratch'),
		'on-cbw-error': 'break-snapshot',
		'cbw-timeout': maxStallSeconds,
	};
}

/** Shows the disk under the filter as it was at the instant. The filter must have its device by then. */
function accessNode(run: string, disk: string): QmpBlockdevOptions {
	const [name, filter] = [objectName(run, disk, 'access'), objectName(run, disk, 'filter')];
	return {'driver': 'snapshot-access', 'node-name': name, 'file': filter};
}
