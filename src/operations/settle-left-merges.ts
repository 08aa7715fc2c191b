import {tellWhatIsMerged, tellWhatIsSpoiled} from '../snapshots/retell.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';
import {qemuOf} from './capture-machine.ts';
import {type ChainJournal, clearJournal, journalsOfDead, type MergeRecord} from './chain-journal.ts';
import {readChains} from './disk-chains.ts';
import {removeNodes} from './remove-nodes.ts';
import {removeFiles} from './settle-merge.ts';
import {readableSnapshots} from './snapshot-folders.ts';
import {unwindInside} from './unwind.ts';
import type {Session} from './vm-session.ts';

/**
 * Brings to an end what dead runs were merging in this VM: a job that has not pivoted is cancelled, and the disk stays on
 * what it lies on; where one has, the nodes and the files of the layers go, as the run would have had it. Returns what it did, in
 * words. The caller holds the VM's lock.
 */
export async function settleLeftMerges(vm: Session, named: string | undefined): Promise<string[]> {
	const done: string[] = [];
	for (const {run, folder, journal} of await journalsOfDead(vm.lockKey)) {
		const unwound = await unwindInside(vm.qmp, vm.schema, run);
		if (unwound.length > 0) done.push(`removed ${unwound.join(', ')}, left by run ${run}`);
		const snapshots = await readableSnapshots(vm, named);
		await tellWhatIsSpoiled(
			snapshots,
			journal.merges.flatMap(({images}) => images ?? []),
		);
		for (const merge of journal.merges) {
			const stage = await stageOf(vm, merge, journal);
			done.push(...(await settle(vm, merge, {run, stage, snapshots})));
		}
		await clearJournal(folder);
	}
	return done;
}

/** How far a merge has come, as the images show it, or QEMU. */
type Stage = 'undone' | 'merged' | 'unknown' | 'both';

function stageOf(vm: Session, merge: MergeRecord, journal: ChainJournal): Promise<Stage> {
	return vm.power === 'off' ? stageOfClosed(vm, merge) : stageInQemu(vm, merge, journal);
}

/**
 * Of a VM that is off only headers tell what it lies on. They do not tell of the active layer: it is what the VM is started from,
 * and holds, with the base that has all of it too, what it held.
 */
async function stageOfClosed(vm: Session, {disk, images, merged}: MergeRecord): Promise<Stage> {
	const {chains} = await readChains(vm);
	const files = chains.find(chain => chain.disk.name === disk)?.layers.map(({file}) => file) ?? [];
	if (!images || !files.includes(images.into)) return 'undone';
	if (!images.going.some(file => files.includes(file))) return 'merged';
	return merged ? 'both' : 'undone';
}

async function stageInQemu(vm: Session, {disk, into, layers}: MergeRecord, journal: ChainJournal): Promise<Stage> {
	// A QEMU that was started anew may lie on whatever it was told to, and have nodes of the same names.
	if (!(await isSameQemu(vm, journal))) return 'unknown';
	const {disks} = await vm.readGraph();
	const chain = disks.find(({name}) => name === disk)?.medium?.chain.map(node => node.name) ?? [];
	return !chain.includes(into) || layers.some(layer => chain.includes(layer)) ? 'undone' : 'merged';
}

async function isSameQemu(vm: Session, {qemu}: ChainJournal): Promise<boolean> {
	const now = await qemuOf(vm);
	return qemu !== null && now?.pid === qemu.pid && now.startTicks === qemu.startTicks;
}

async function settle(
	vm: Session,
	merge: MergeRecord,
	{run, stage, snapshots}: {readonly run: string; readonly stage: Stage; readonly snapshots: readonly Snapshot[]},
): Promise<string[]> {
	const {disk, into, nodes, files, images} = merge;
	const names = files.map(({file}) => file).join(', ');
	switch (stage) {
		case 'unknown':
			return [`left the images of ${disk} as they are, since QEMU was started anew after run ${run}: ${names || into}`];
		case 'undone':
			return [`${disk} lies on what it lay on: the merge that run ${run} had begun is undone`];
		case 'both':
			return [`${disk} can still be started from what it lay on: run ${run} has merged it, and removed nothing yet`];
		case 'merged': {
			const stillUsed = vm.power === 'on' ? await removeNodes(vm.qmp, nodes) : [];
			await tellWhatIsMerged(snapshots, images ? [images] : []);
			return [
				`settled the merge of ${disk} into ${into}, which run ${run} had done`,
				...stillUsed.map(node => `${disk}: something still uses the node ${node}`),
				...(await removeFiles(vm, merge)).map(settled =>
					settled.kind === 'removed' ? `removed ${settled.file}` : `left ${settled.file}: ${settled.why ?? ''}`,
				),
			];
		}
	}
}
