import {bitmapName, bitmapTag, isBitmapOf, objectName} from '../../block/names.ts';
import {
	type ExposedBase,
	type ExposedState,
	listExposed,
	removeExposed,
	writeExposed,
} from '../../repository/exposed.ts';
import {pointId} from '../../repository/point-id.ts';
import type {Repository} from '../../repository/repository.ts';
import {programVersion} from '../../version.ts';
import type {CopyTask} from '../copy-task.ts';
import {bitmapsOn, markRecordings, renameBitmap} from '../keep-bitmaps.ts';
import type {DiskCopy} from '../plan-copies.ts';

export interface Commit extends Pick<ExposedBase, 'name' | 'cutAt'> {
	readonly repository: Repository;
	readonly qemuProcess: ExposedBase['qemu']['process'];
	/** That on which it goes, if it was one: nobody needs it once this is there. */
	readonly since: string | undefined;
}

/**
 * Makes what was exposed the base of a later exposure: what has recorded since the cut outlives the run, and the repository says
 * of what state it is. Killed in the middle, the base is the earlier one, from which more has changed; the next commit removes
 * what nobody goes by.
 */
export async function commitExposure(
	task: Pick<CopyTask, 'vm' | 'run' | 'copies'>,
	{repository, name, cutAt, qemuProcess, since}: Commit,
): Promise<void> {
	const {vm, run, copies} = task;
	const marked = await markRecordings(task);
	const at = pointId(new Date(cutAt), 1);
	const disks: ExposedState[] = [];
	for (const copy of copies) {
		const {disk, granularity, persistence, images} = copy;
		const {name: of, deviceType, medium} = disk;
		const to = bitmapName(tagOf(task, repository, copy), at, run.id);
		if (granularity !== undefined) {
			const from = objectName(run.id, of, 'bitmap');
			await renameBitmap(vm.qmp, {node: medium.node, granularity, persistence, from, to});
		}
		disks.push({
			...{name: of, sizeBytes: medium.virtualSize, format: medium.format, deviceType: deviceType ?? null},
			bitmap: granularity === undefined ? null : {name: to, granularity, marked: marked.has(of)},
			source: images,
		});
	}
	await writeExposed(repository, {
		...{name, vm: vm.name, run: run.id, cutAt, disks},
		qemu: {version: vm.version, package: vm.qmp.version.package, process: qemuProcess},
		tool: {version: programVersion()},
	});
	if (since !== undefined && since !== name) await removeExposed(repository, vm.name, since);
	await removeUnwanted(task, repository);
}

/** Not as of a point: a backup removes what it knows of no point. */
function tagOf({vm}: Pick<CopyTask, 'vm'>, {id}: Repository, {disk}: Pick<DiskCopy, 'disk'>): string {
	return bitmapTag(`${id} exposed`, vm.uuid ?? vm.name, disk.name);
}

async function removeUnwanted({vm, copies}: Pick<CopyTask, 'vm' | 'copies'>, repository: Repository): Promise<void> {
	const bases = await listExposed(repository, vm.name);
	const wanted = new Set(bases.flatMap(({disks}) => disks.flatMap(({bitmap}) => bitmap?.name ?? [])));
	for (const copy of copies) {
		const {node} = copy.disk.medium;
		const tag = tagOf({vm}, repository, copy);
		for (const {name} of await bitmapsOn(vm.qmp, node)) {
			if (isBitmapOf(tag, name) && !wanted.has(name)) await vm.qmp.execute('block-dirty-bitmap-remove', {node, name});
		}
	}
}
