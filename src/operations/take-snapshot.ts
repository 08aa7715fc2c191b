import fs from 'node:fs/promises';
import path from 'node:path';
import {defer, EMPTY, from, type Observable} from 'rxjs';
import {addOverlayNodes, carryBitmaps, type OverlaidDisk} from '../cut/external-snapshot.ts';
import {QuiesceError} from '../errors.ts';
import type {Machine} from '../repository/machine.ts';
import type {SnapshotPlan} from '../snapshots/journal.ts';
import type {SnapshotGroup, SnapshotMemory, VmState} from '../snapshots/manifest.ts';
import {createOverlay} from '../snapshots/overlay-file.ts';
import {createPartialSnapshot, type PartialSnapshot} from '../snapshots/partial-snapshot.ts';
import {scoped} from '../rx/scoped.ts';
import {streamTask} from '../rx/task-stream.ts';
import type {CutRecord} from './backup-messages.ts';
import type {PlannedSnapshot} from './plan-snapshot.ts';
import {ALONE, type AnnouncedGroup, type GroupMember} from './group.ts';
import {reachAgain} from './reach-again.ts';
import type {Run} from './run.ts';
import {removeMadeOverlays} from './remove-made-overlays.ts';
import {settleSnapshot} from './settle-snapshot.ts';
import type {SnapshotMessage} from './snapshot-messages.ts';
import {clearPointer, pointToSnapshot} from './snapshot-pointer.ts';
import type {Session} from './vm-session.ts';
import {lostErrors, type VmRequest} from './with-vm.ts';

/** All that was asked for, found and decided before a snapshot is taken. */
export interface SnapshotTask {
	readonly request: Omit<VmRequest, 'sockets'> & {readonly member?: GroupMember | undefined};
	readonly vm: Session;
	readonly run: Run;
	readonly planned: PlannedSnapshot;
	/** What the documents are to say. */
	readonly plan: SnapshotPlan;
	readonly machine: Machine;
	/** To which names of images are relative, where it is known. */
	readonly qemuFolder: string | undefined;
}

/** The memory, in a file or inside an image. */
interface SavedWithIt {
	readonly memory?: SnapshotMemory | undefined;
	readonly vmState?: VmState | undefined;
}

/** How a snapshot is cut, once its overlays are ready, and what comes with it. */
export interface SnapshotCutter {
	readonly wants: 'disks' | 'memory';
	/** Has to put all overlays in place with `overlayActions` in one transaction, or fail. Files go into the partial's folder. */
	readonly cut: (
		disks: readonly OverlaidDisk[],
		partial: PartialSnapshot,
		emit: (message: SnapshotMessage) => void,
	) => Promise<CutRecord & SavedWithIt>;
}

interface Taking {
	readonly partial: PartialSnapshot;
	/** False while it would be taken back if anything failed. */
	mayAppear: boolean;
}

/**
 * Makes the overlays, cuts, and lets the snapshot appear. Cold. If it fails before the cut, nothing is left of it; if after,
 * the snapshot is there all the same, as far as it can be, since the guest writes to its overlays; but one of a group is
 * taken back, as long as no snapshot of the group has begun to appear.
 */
export function takeSnapshot(task: SnapshotTask, cutter: SnapshotCutter): Observable<SnapshotMessage> {
	const {request, run, planned, machine, plan} = task;
	return scoped({
		acquire: async () => {
			const partial = await createPartialSnapshot(planned.folder, {plan, machine, wants: cutter.wants});
			await pointToSnapshot(run.folder, partial.folder);
			return {partial, mayAppear: request.member === undefined};
		},
		release: (taking, outcome) => (outcome === 'completed' ? EMPTY : settle(task, taking)),
		onLostError: lostErrors(request),
		use: taking =>
			streamTask<SnapshotMessage>(undefined, async emit => {
				const {partial} = taking;
				await makeOverlays(task, partial);
				const disks = planned.overlays.map(({overlaid}) => overlaid);
				request.signal.throwIfAborted();
				await addOverlayNodes({qmp: task.vm.qmp, run: run.id}, disks);
				await announce(task, partial);
				const {memory, vmState, ...record} = await cutter.cut(disks, partial, emit);
				emit({kind: 'cut', ...record});
				(await finish(task, taking, record, {memory, vmState})).forEach(emit);
			}),
	});
}

async function makeOverlays({planned, plan}: SnapshotTask, partial: PartialSnapshot): Promise<void> {
	const inodes = new Map<string, number>();
	for (const {file} of planned.overlays) inodes.set(file.file, await createOverlay(file));
	await partial.record({
		...plan,
		disks: plan.disks.map(disk => {
			const {overlay} = disk;
			return {...disk, overlay: overlay && {...overlay, inode: inodes.get(overlay.file) ?? null}};
		}),
	});
	// QEMU syncs each base at the cut. What is synced by then is not waited for in the window.
	for (const {record} of planned.overlays) await syncBase(record.base.file);
}

async function syncBase(file: string): Promise<void> {
	const handle = await fs.open(file, 'r');
	try {
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/** From here on also who finds what a killed run has left knows of whose group it is. */
async function announce({request: {member = ALONE}, planned}: SnapshotTask, partial: PartialSnapshot): Promise<void> {
	const announced = await member.announce(path.join(planned.folder, planned.name));
	if (announced) await partial.record({...partial.plan, group: groupOf(announced)});
}

function groupOf({name, members}: AnnouncedGroup): SnapshotGroup {
	const unseen = {consistency: null, cutBeganSeconds: null, cutEndedSeconds: null};
	return {name, skewSeconds: null, members: members.map(member => ({...member, ...unseen}))};
}

/** What was announced of it, with what was measured since. */
function measured(group: SnapshotGroup | null, record: CutRecord['group']): SnapshotGroup | undefined {
	if (!group || !record) return undefined;
	const members = group.members.map(member => {
		const seen = record.members.find(({vm}) => vm === member.vm);
		if (!seen) return member;
		const {consistency, cutBeganSeconds, cutEndedSeconds} = seen;
		return {...member, consistency, cutBeganSeconds, cutEndedSeconds};
	});
	return {...group, skewSeconds: record.skewSeconds, members};
}

async function finish(
	{request: {member = ALONE}, vm, run, planned}: SnapshotTask,
	taking: Taking,
	record: CutRecord,
	saved: SavedWithIt,
): Promise<SnapshotMessage[]> {
	const {partial} = taking;
	const disks = planned.overlays.map(({overlaid}) => overlaid);
	await requireInPlace(vm, planned);
	const problems = await carryBitmaps({qmp: vm.qmp, run: run.id}, disks);
	const {at: cutAt, consistency, freeze, standstill, degraded} = record;
	const warnings = [...(degraded === undefined ? [] : [`crash-consistent only: ${degraded}`]), ...problems];
	const group = measured(partial.plan.group, record.group);
	const cut = {cutAt, consistency, freeze, standstill, group, warnings, ...saved};
	const {manifest, folder} = await partial.finish(cut, async () => {
		await member.readyToAppear();
		taking.mayAppear = true;
	});
	await clearPointer(run.folder);
	return [...problems.map(text => ({kind: 'warning' as const, text})), {kind: 'finished', manifest, folder}];
}

async function requireInPlace(vm: Session, {overlays}: PlannedSnapshot): Promise<void> {
	const graph = await vm.readGraph();
	for (const {disk, overlaid} of overlays) {
		const now = graph.disks.find(({name}) => name === disk.name)?.medium?.node;
		if (now === overlaid.overlay.node) continue;
		throw new QuiesceError('FAILED', `${disk.name} lies on ${now ?? 'nothing'} and not on its overlay`, {
			hint: 'Another program may have changed it meanwhile.',
		});
	}
}

/** The connection may be what has failed. */
function settle({request, vm, run, qemuFolder}: SnapshotTask, {partial, mayAppear}: Taking): Observable<unknown> {
	return defer(async () => {
		const words =
			(await reachAgain(vm, qmp => {
				const again = {...vm, qmp, readGraph: () => vm.readGraph(qmp), qemuFolder};
				return settleSnapshot(again, partial, mayAppear ? 'finish' : 'take back');
			})) ?? (await removeMadeOverlays(partial));
		for (const text of words.filter(isNews)) request.tell(text);
		await clearPointer(run.folder);
		return from(words);
	});
}

/** That what had been made is gone again goes without saying. */
function isNews(text: string): boolean {
	return !text.startsWith('removed ');
}
