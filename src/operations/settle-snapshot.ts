import {isLasting} from '../block/names.ts';
import type {BlockGraph} from '../block/graph.ts';
import {carryBitmaps, type OverlaidDisk, removeOverlayNodes} from '../cut/external-snapshot.ts';
import {untilConcluded} from '../jobs/conclude-job.ts';
import type {VmState} from '../snapshots/manifest.ts';
import type {PartialSnapshot} from '../snapshots/partial-snapshot.ts';
import {deleteInternal, holdersOf, insideJob, vmStateIn} from './internal-snapshots.ts';
import {type OverlayInUse, overlaysInUse, overlaysOf} from './overlays-in-use.ts';
import {removeMadeOverlays} from './remove-made-overlays.ts';
import {reasonNotToUndo, type SettlingVm, undoSnapshot} from './undo-snapshot.ts';

/** What becomes of a snapshot that has been cut. */
export type SettleWish = 'finish' | 'take back';

/**
 * Ends a snapshot whose run cannot. If the guest writes to its overlays, the cut has been made: the snapshot is finished,
 * or is taken back, if that is wished and possible, or was begun. Else what was made for it is removed; but an overlay that has been written to never is.
 * Can be repeated. Returns what it did, in words.
 */
export async function settleSnapshot(
	vm: SettlingVm,
	partial: PartialSnapshot,
	wish: SettleWish = 'finish',
): Promise<string[]> {
	if (partial.journal.undoing) return undoSnapshot(vm, partial);
	if (partial.plan.kind === 'internal') return settleInternal(vm, partial, wish);
	const graph = await vm.readGraph();
	const used = await overlaysInUse(graph, partial.plan, vm.qemuFolder);
	if (used.length === 0) {
		await removeOverlayNodes(
			vm.qmp,
			overlaysOf(partial.plan).map(({node}) => node),
		);
		return removeMadeOverlays(partial);
	}
	const words: string[] = [];
	if (wish === 'take back') {
		const why = await reasonNotToUndo(vm, used);
		if (why === undefined) {
			await partial.beginUndoing();
			return undoSnapshot(vm, partial);
		}
		const files = used.map(({overlay}) => overlay.file).join(', ');
		words.push(`the snapshot ${partial.plan.name} cannot be taken back, as the guest writes to ${files}: ${why}`);
	}
	const overlaid = used.map(one => overlaidDisk(graph, one));
	const problems = await carryBitmaps({qmp: vm.qmp, run: partial.plan.run}, overlaid);
	return [...words, ...(await finishUnwitnessed(partial, problems))];
}

/** QEMU may have been killed in the middle: what not all disks have is no snapshot. */
async function settleInternal(vm: SettlingVm, partial: PartialSnapshot, wish: SettleWish): Promise<string[]> {
	const {name, disks, run} = partial.plan;
	// It cannot be cancelled, and QEMU lets the VM go on by itself at its end.
	await untilConcluded(vm.qmp, insideJob(run));
	const graph = await vm.readGraph();
	const holders = holdersOf(graph, name).filter(({disk}) => disks.some(planned => planned.name === disk));
	if (holders.length === disks.length && wish === 'take back') {
		await partial.beginUndoing();
		return undoSnapshot(vm, partial);
	}
	if (holders.length === disks.length) return finishUnwitnessed(partial, [], vmStateIn(holders));
	await deleteInternal(vm.qmp, holders, name);
	return removeMadeOverlays(partial);
}

async function finishUnwitnessed(
	partial: PartialSnapshot,
	problems: readonly string[],
	vmState?: VmState,
): Promise<string[]> {
	const {journal, plan} = partial;
	await partial.finish({
		cutAt: journal.begunAt,
		consistency: 'crash-consistent',
		freeze: null,
		standstill: null,
		vmState,
		warnings: [whatIsUnknown(journal.wants, vmState), ...problems],
	});
	const where = plan.kind === 'internal' ? 'its images have it' : 'the guest writes to its overlays';
	return [`finished the snapshot ${plan.name} of run ${plan.run}: ${where}`, ...problems];
}

function whatIsUnknown(wants: PartialSnapshot['journal']['wants'], vmState: VmState | undefined): string {
	if (vmState) return 'its run ended before QEMU had saved all of it: its time is when it was begun';
	if (wants === 'memory') return 'its run ended after the cut, before the memory was saved: it has the disks alone';
	return 'its run ended after the cut: whether the guest was frozen is not known, and its time is when it was begun';
}

function overlaidDisk({nodes}: BlockGraph, {name, overlay, top, base}: OverlayInUse): OverlaidDisk {
	const bitmaps = (base && nodes.get(base.name)?.bitmaps) ?? [];
	return {
		name,
		node: base?.name ?? top.name,
		overlay: {node: top.name, file: overlay.file},
		bitmaps: bitmaps.filter(bitmap => isLasting(bitmap.name) && bitmap.recording && !bitmap.inconsistent),
	};
}
