import fs from 'node:fs/promises';
import type {BlockGraph} from '../block/graph.ts';
import {isLasting} from '../block/names.ts';
import type {BlockNode} from '../block/nodes.ts';
import {readBlockGraph} from '../block/read-graph.ts';
import {carryBitmaps, type OverlaidDisk, removeOverlayNodes} from '../cut/external-snapshot.ts';
import {writersOf} from '../host/writers.ts';
import {untilConcluded} from '../jobs/conclude-job.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import type {SnapshotDisk, VmState} from '../snapshots/manifest.ts';
import {removeFile, stateOfOverlay} from '../snapshots/overlay-file.ts';
import {type PartialSnapshot, removePartialSnapshot} from '../snapshots/partial-snapshot.ts';
import {deleteInternal, holdersOf, insideJob, vmStateIn} from './internal-snapshots.ts';
import {fileOn} from './source-images.ts';

/** The VM of an unfinished snapshot, as it is now. */
export interface SettlingVm {
	readonly qmp: QmpConnection;
	readonly schema: QmpSchema;
	/** To which names of images are relative, where it is known. */
	readonly qemuFolder: string | undefined;
}

type Overlay = NonNullable<SnapshotDisk['overlay']>;

/**
 * Ends a snapshot whose run cannot. If the guest writes to its overlays, the cut has been made: the snapshot is finished.
 * Else what was made for it is removed; but an overlay that has been written to never is. Can be repeated. Returns what it
 * did, in words.
 */
export async function settleSnapshot(vm: SettlingVm, partial: PartialSnapshot): Promise<string[]> {
	if (partial.plan.kind === 'internal') return settleInternal(vm, partial);
	const graph = await readBlockGraph(vm.qmp, vm.schema);
	const used = await usedOverlays(graph, partial, vm.qemuFolder);
	if (used.length === 0) {
		await removeOverlayNodes(
			vm.qmp,
			overlaysOf(partial).map(({node}) => node),
		);
		return removeMade(partial);
	}
	const problems = await carryBitmaps({qmp: vm.qmp, run: partial.plan.run}, used);
	return finishUnwitnessed(partial, problems);
}

/** The same where QEMU has ended, and cannot be asked: what holds nothing is removed, and else nothing is touched. */
export function settleWithoutVm(partial: PartialSnapshot): Promise<string[]> {
	return removeMade(partial);
}

/** QEMU may have been killed in the middle: what not all disks have is no snapshot. */
async function settleInternal(vm: SettlingVm, partial: PartialSnapshot): Promise<string[]> {
	const {name, disks, run} = partial.plan;
	// It cannot be cancelled, and QEMU lets the VM go on by itself at its end.
	await untilConcluded(vm.qmp, insideJob(run));
	const graph = await readBlockGraph(vm.qmp, vm.schema);
	const holders = holdersOf(graph, name).filter(({disk}) => disks.some(planned => planned.name === disk));
	if (holders.length === disks.length) return finishUnwitnessed(partial, [], vmStateIn(holders));
	await deleteInternal(vm.qmp, holders, name);
	return removeMade(partial);
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

/** All of it or nothing: where one overlay has been written to, the VM may be started from all of them. */
async function removeMade(partial: PartialSnapshot): Promise<string[]> {
	const {plan} = partial;
	const overlays = overlaysOf(partial);
	const writers = await writersOf(
		overlays.map(({file}) => file),
		[],
	);
	const kept: string[] = [];
	const unused: string[] = [];
	for (const overlay of overlays) {
		const writer = writers.get(overlay.file);
		const state = await stateOfOverlay(overlay);
		if (state === 'absent' || state === 'foreign') continue;
		if (writer) kept.push(`${overlay.file} is in use by process ${writer.pid} (${writer.name})`);
		else if (state === 'written') kept.push(`${overlay.file} has been written to`);
		else unused.push(overlay.file);
	}
	if (kept.length > 0) {
		return [
			`left the unfinished snapshot ${plan.name} of run ${plan.run} in ${partial.folder}: ${kept.join('; ')}: ` +
				'if the VM is to go on from its overlays, start it from them; else remove them, and that folder, by hand',
		];
	}
	for (const file of unused) await removeFile(file);
	await removePartialSnapshot(partial.folder);
	return [`removed the unfinished snapshot ${plan.name} of run ${plan.run}`];
}

function overlaysOf({plan}: PartialSnapshot): Overlay[] {
	return plan.disks.flatMap(({overlay}) => overlay ?? []);
}

/** Those that a disk of the VM lies on, by node or, as QEMU may have been started anew, by file. */
async function usedOverlays(
	{disks, nodes}: BlockGraph,
	partial: PartialSnapshot,
	qemuFolder: string | undefined,
): Promise<OverlaidDisk[]> {
	const found: OverlaidDisk[] = [];
	for (const {name, overlay} of partial.plan.disks) {
		if (!overlay) continue;
		for (const {medium} of disks) {
			if (!medium) continue;
			const depth = await depthOf(medium.chain, overlay, qemuFolder);
			const [top, base] = medium.chain.slice(depth ?? medium.chain.length);
			if (!top) continue;
			const bitmaps = (base && nodes.get(base.name)?.bitmaps) ?? [];
			found.push({
				name,
				node: base?.name ?? top.name,
				overlay: {node: top.name, file: overlay.file},
				bitmaps: bitmaps.filter(bitmap => isLasting(bitmap.name) && bitmap.recording && !bitmap.inconsistent),
			});
		}
	}
	return found;
}

async function depthOf(
	chain: readonly BlockNode[],
	{node, file, inode}: Overlay,
	qemuFolder: string | undefined,
): Promise<number | undefined> {
	for (const [depth, {name, filename}] of chain.entries()) {
		if (name === node) return depth;
		const there = fileOn(filename, qemuFolder);
		if (there === undefined) continue;
		const same = await Promise.all([fs.realpath(there), fs.realpath(file), fs.stat(there)]).catch(() => undefined);
		if (same && (same[0] === same[1] || same[2].ino === inode)) return depth;
	}
	return undefined;
}
