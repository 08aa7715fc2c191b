import path from 'node:path';
import type {Observable} from 'rxjs';
import {asError, QuiesceError} from '../errors.ts';
import {type HostLock, takeLock} from '../host/lock.ts';
import {applySnapshot, type ImageSnapshot, readImageContents, removeBitmap} from '../images/image-snapshots.ts';
import {imageAbove} from '../images/images-above.ts';
import {readImageChain} from '../images/image-chain.ts';
import {streamTask} from '../rx/task-stream.ts';
import {snapshotsFolder} from '../snapshots/layout.ts';
import {beginReverting, endReverting, readReverting} from '../snapshots/reverting.ts';
import {processesUsing} from './image-users.ts';
import {lockKeyOf} from './open-images.ts';
import {requireDroppable, type RevertInsideMessage, type RevertInsideRequest} from './revert-inside.ts';
import {beginRun} from './run.ts';
import type {DiskSelection} from './select-disks.ts';
import {findVmImages, type KnownDisk, type KnownVm, type VmImages} from './vm-images.ts';

export interface RevertOffRequest extends Omit<RevertInsideRequest, 'sockets'>, Pick<DiskSelection, 'exclude'> {
	readonly vm: VmImages;
}

interface FoundImage {
	readonly disk: string;
	readonly file: string;
	readonly snapshot: ImageSnapshot;
	readonly bitmaps: readonly string[];
}

/**
 * Brings the images of a VM that is off back to a snapshot inside them: all are looked at before the first is touched.
 * Killed in the middle, some are at it and others are not, which is noted beside the first; a rerun does the rest. Cold.
 */
export function revertOff(request: RevertOffRequest): Observable<RevertInsideMessage> {
	const {snapshot} = request;
	return streamTask<RevertInsideMessage>(request.signal, async (emit, signal) => {
		const vm = await findVmImages(request.vm, request);
		const doing = `revert to ${snapshot}`;
		const run = await beginRun(doing);
		try {
			const lock: HostLock = await takeLock(lockKeyOf(vm), `VM ${vm.name}`, {pid: process.pid, run: run.id, doing});
			try {
				const images = await findIn(vm, snapshot, signal);
				const bitmaps = images.flatMap(({file, bitmaps: names}) => names.map(name => ({file, name})));
				requireDroppable(request, bitmaps);
				signal.throwIfAborted();
				await carryOut(vm.name, snapshot, images, text => {
					emit({kind: 'warning', text});
				});
				emit({
					...{kind: 'finished', vm: vm.name, snapshot, disks: images.map(({disk}) => disk)},
					droppedBitmaps: [...new Set(bitmaps.map(({name}) => name))],
					status: 'off',
				});
			} finally {
				await lock.release();
			}
		} finally {
			await run.end();
		}
	});
}

async function findIn(vm: KnownVm, name: string, signal: AbortSignal): Promise<FoundImage[]> {
	const named = vm.disks.flatMap(({name: disk, image}) => (image ? [{disk, image}] : []));
	const chains = await Promise.all(named.map(({image}) => readImageChain(image.path, image.format)));
	await requireUnused(
		vm.name,
		chains.map(([top]) => top.path),
	);
	const found: FoundImage[] = [];
	for (const {disk, image} of named) found.push(await findInImage(disk, image, name, signal));
	const twice = found.find(({file}, index) => found.findIndex(other => other.file === file) < index);
	if (twice) throw refused(twice.disk, `another disk has ${twice.file} too`);
	if (found.length === 0) throw new QuiesceError('REFUSED', `no image of ${vm.name} is named`);
	return found;
}

/** Whoever has it open, also for reading, would see another content from one moment to the next. */
async function requireUnused(vm: string, files: readonly string[]): Promise<void> {
	for (const [file, user] of await processesUsing(files, [])) {
		throw new QuiesceError('REFUSED', `${file} is in use: ${user} has it open`, {
			hint: `If ${vm} runs, it is not off: name it, or its monitor, without --off and --image.`,
		});
	}
	for (const file of files) {
		const above = await imageAbove(file);
		if (above === undefined) continue;
		throw new QuiesceError('REFUSED', `${file} is not to be changed: ${above} lies on it`, {
			hint: `If the VM starts from that, name it. If nothing uses it, move it away.`,
		});
	}
}

async function findInImage(
	disk: string,
	{path: image, format}: NonNullable<KnownDisk['image']>,
	name: string,
	signal: AbortSignal,
): Promise<FoundImage> {
	if (format !== 'qcow2') throw refused(disk, `it is a ${format} image, which has no snapshots in itself`);
	const {snapshots, bitmaps} = await readImageContents(image, signal);
	const [snapshot, ...others] = snapshots.filter(one => one.name === name);
	if (!snapshot) throw refused(disk, `${image} has no snapshot ${name} in itself`);
	if (others.length > 0) throw refused(disk, `${image} has more than one snapshot ${name}`);
	return {disk, file: path.resolve(image), snapshot, bitmaps};
}

function refused(disk: string, why: string): QuiesceError {
	return new QuiesceError('REFUSED', `${disk} cannot be brought back: ${why}`, {
		hint: `Nothing was changed. To leave it as it is: --exclude ${disk}.`,
	});
}

async function carryOut(
	vm: string,
	snapshot: string,
	images: readonly FoundImage[],
	warn: (text: string) => void,
): Promise<void> {
	const [first] = images;
	const folder = snapshotsFolder(path.dirname(first?.file ?? ''), vm);
	const left = await readReverting(folder);
	if (left && left.snapshot !== snapshot) {
		warn(`an earlier revert to ${left.snapshot} had not come to its end`);
	}
	if (images.some(({snapshot: {memoryBytes}}) => memoryBytes > 0)) {
		warn(`the memory of ${snapshot} is not loaded: the guest boots from its disks`);
	}
	await beginReverting(folder, {vm, snapshot, images: images.map(({disk, file}) => ({disk, file}))});
	// A bitmap that stayed would know nothing of what the disk becomes; QEMU refuses that too.
	for (const {file, bitmaps} of images) for (const name of bitmaps) await removeBitmap(file, name);
	const done: string[] = [];
	for (const {disk, file, snapshot: wanted} of images) {
		try {
			await applySnapshot(file, wanted);
		} catch (cause) {
			const before = done.length === 0 ? 'no disk is' : `${done.join(', ')} ${done.length === 1 ? 'is' : 'are'}`;
			const why = asError(cause).message;
			throw new QuiesceError('FAILED', `${disk} could not be brought back, and ${before} at ${snapshot}: ${why}`, {
				cause,
				hint: 'Do not start the VM before it has gone well: run it again once the cause is gone.',
			});
		}
		done.push(disk);
	}
	await endReverting(folder);
}
