import {tellWhatIsMerged, tellWhatIsSpoiled} from '../snapshots/retell.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';
import {qemuOf} from './capture-machine.ts';
import {type ChainJournal, clearJournal, type MergeRecord, readJournal} from './chain-journal.ts';
import {removeNodes} from './remove-nodes.ts';
import {isAlive, runFolders} from './run.ts';
import {removeFiles} from './settle-merge.ts';
import {readableSnapshots} from './snapshot-folders.ts';
import {unwindInside} from './unwind.ts';
import type {VmSession} from './vm-session.ts';

/**
 * Brings to an end what dead runs were merging in this VM: a job that has not pivoted is cancelled, and the disk stays on
 * what it lies on; where one has, the nodes and the files of the layers go, as the run would have had it. Returns what it did, in
 * words. The caller holds the VM's lock.
 */
export async function settleLeftMerges(vm: VmSession, named: string | undefined): Promise<string[]> {
	const done: string[] = [];
	for (const {run, folder} of await runFolders()) {
		const journal = await readJournal(folder);
		if (journal?.vm !== vm.lockKey || (await isAlive(run))) continue;
		const unwound = await unwindInside(vm.qmp, vm.schema, run);
		if (unwound.length > 0) done.push(`removed ${unwound.join(', ')}, left by run ${run}`);
		const isSame = await isSameQemu(vm, journal);
		const snapshots = await readableSnapshots(vm, named);
		await tellWhatIsSpoiled(
			snapshots,
			journal.merges.flatMap(({images}) => images ?? []),
		);
		for (const merge of journal.merges) done.push(...(await settle(vm, merge, {run, isSame, snapshots})));
		await clearJournal(folder);
	}
	return done;
}

/** A QEMU that was started anew may lie on whatever it was told to, and have nodes of the same names. */
async function isSameQemu(vm: VmSession, {qemu}: ChainJournal): Promise<boolean> {
	const now = await qemuOf(vm);
	return qemu !== null && now?.pid === qemu.pid && now.startTicks === qemu.startTicks;
}

async function settle(
	vm: VmSession,
	merge: MergeRecord,
	{run, isSame, snapshots}: {readonly run: string; readonly isSame: boolean; readonly snapshots: readonly Snapshot[]},
): Promise<string[]> {
	const {disk, into, layers, nodes, files, images} = merge;
	const names = files.map(({file}) => file).join(', ');
	if (!isSame) {
		return [`left the images of ${disk} as they are, since QEMU was started anew after run ${run}: ${names || into}`];
	}
	const {disks} = await vm.readGraph();
	const chain = disks.find(({name}) => name === disk)?.medium?.chain.map(node => node.name) ?? [];
	if (!chain.includes(into) || layers.some(layer => chain.includes(layer))) {
		return [`${disk} lies on what it lay on: the merge that run ${run} had begun is undone`];
	}
	const stillUsed = await removeNodes(vm.qmp, nodes);
	await tellWhatIsMerged(snapshots, images ? [images] : []);
	return [
		`settled the merge of ${disk} into ${into}, which run ${run} had done`,
		...stillUsed.map(node => `${disk}: something still uses the node ${node}`),
		...(await removeFiles(vm, merge)).map(settled =>
			settled.kind === 'removed' ? `removed ${settled.file}` : `left ${settled.file}: ${settled.why ?? ''}`,
		),
	];
}
