import {isBitmapOf, objectName} from '../block/names.ts';
import {withMark} from '../cut/bitmap-mark.ts';
import {asError, QuiesceError} from '../errors.ts';
import {QmpCommandError, QmpDisconnectedError} from '../qmp/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {type Point, readStored} from '../repository/points.ts';
import {bitmapFor, type DiskCopy, tagFor} from './plan-copies.ts';
import type {PointTask} from './point-task.ts';

/**
 * Before the cut: what an image that is beneath the disk's by now has counted is added to the disk's own bitmap. That has it
 * already from when the overlay was laid over it; but a VM that ran on that image meanwhile may have added to it.
 */
export async function gatherChanges({vm: {qmp}, copies}: Pick<PointTask, 'vm' | 'copies'>): Promise<void> {
	for (const {disk, parent} of copies) {
		if (!parent || parent.beneath.length === 0) continue;
		const {name} = parent.changes;
		const bitmaps = parent.beneath.map(node => ({node, name}));
		await qmp.execute('block-dirty-bitmap-merge', {node: disk.medium.node, target: name, bitmaps});
	}
}

/** After the cut: gives what records the mark by which it is known to have lost nothing. Returns the disks that have it. */
export async function markRecordings({
	vm,
	run,
	copies,
}: Pick<PointTask, 'vm' | 'run' | 'copies'>): Promise<ReadonlySet<string>> {
	const marked = new Set<string>();
	for (const {disk, granularity} of copies) {
		if (granularity === undefined) continue;
		const {name, medium} = disk;
		const at = {node: medium.node, target: objectName(run.id, name, 'bitmap')};
		await withMark(vm, run.id, {name, sizeBytes: medium.virtualSize}, granularity, async mark => {
			if (!mark) return;
			await vm.qmp.execute('block-dirty-bitmap-merge', {...at, bitmaps: [mark]});
			marked.add(name);
		});
	}
	return marked;
}

/**
 * Once a point is durable: what has recorded since its cut takes the name by which the next point looks for it, and the
 * bitmaps that none will look for go. Nothing here can spoil the point; what fails makes the next one a full, and is
 * returned in words.
 */
export async function keepBitmaps(task: PointTask, point: Point): Promise<string[]> {
	const problems: string[] = [];
	for (const copy of task.copies) {
		try {
			await keep(task, point, copy);
		} catch (error) {
			if (!(error instanceof QmpCommandError) && !(error instanceof QmpDisconnectedError)) throw error;
			problems.push(
				`${copy.disk.name}: the next point has to be full: its bitmap could not be kept: ${asError(error).message}`,
			);
		}
	}
	return problems;
}

async function keep(task: PointTask, point: Point, {disk, granularity, persistence, parent}: DiskCopy): Promise<void> {
	const {qmp} = task.vm;
	const {node} = disk.medium;
	const [recording, lasting] = [
		objectName(task.run.id, disk.name, 'bitmap'),
		bitmapFor(task, disk.name, point.id, task.run.id),
	];
	if (granularity !== undefined)
		await renameBitmap(qmp, {node, granularity, persistence, from: recording, to: lasting});
	const wanted = new Set([lasting, await bitmapOfFull(task, point, disk.name)]);
	for (const {name} of await bitmapsOn(qmp, node)) {
		// The parent's may bear another tag: a VM that was off when its first point was taken had no UUID then.
		const isOurs = isBitmapOf(tagFor(task, disk.name), name) || name === parent?.disk.bitmap?.name;
		if (!isOurs || wanted.has(name)) continue;
		await qmp.execute('block-dirty-bitmap-remove', {node, name});
	}
}

/** Gives what records another name, with which it outlives its run, and QEMU if it can. */
export async function renameBitmap(
	qmp: QmpConnection,
	{
		node,
		granularity,
		persistence,
		from,
		to,
	}: {readonly node: string; readonly granularity: number; readonly from: string; readonly to: string} & Pick<
		DiskCopy,
		'persistence'
	>,
): Promise<void> {
	const rename = (persistent: boolean) =>
		// The new one records before the old one is merged into it: what is written between is in both.
		qmp.execute('transaction', {
			actions: [
				{type: 'block-dirty-bitmap-add', data: {node, name: to, granularity, persistent}},
				{type: 'block-dirty-bitmap-merge', data: {node, target: to, bitmaps: [{node, name: from}]}},
			],
		});
	await rename(persistence === 'persistent').catch(async (error: unknown) => {
		// Such as an image of an old version: then it lasts as long as QEMU.
		if (!(error instanceof QmpCommandError) || persistence === 'transient') throw error;
		await rename(false);
	});
	await qmp.execute('block-dirty-bitmap-remove', {node, name: from});
}

/** A differential goes by it. */
async function bitmapOfFull({repository, vm}: PointTask, point: Point, disk: string): Promise<string | undefined> {
	const chain = point.manifest.disks.find(({name}) => name === disk)?.chain ?? point.id;
	try {
		const full = await readStored(repository, vm.name, chain);
		return full.manifest.disks.find(({name}) => name === disk)?.bitmap?.name;
	} catch (error) {
		if (error instanceof QuiesceError && error.code === 'DAMAGED') return undefined;
		throw error;
	}
}

export async function bitmapsOn(qmp: QmpConnection, node: string): Promise<{readonly name: string}[]> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	const bitmaps = nodes.find(candidate => candidate['node-name'] === node)?.['dirty-bitmaps'] ?? [];
	return bitmaps.flatMap(({name, busy}) => (name === undefined || busy ? [] : [{name}]));
}
