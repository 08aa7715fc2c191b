import fs, {type FileHandle} from 'node:fs/promises';
import path from 'node:path';
import type {Observable} from 'rxjs';
import {UsageError} from '../../errors.ts';
import {claimDevice, inspectTarget} from '../../images/image-target.ts';
import {fileError, moveToFreeName, syncFolder} from '../../repository/durable-files.ts';
import {parseMachine, type Machine} from '../../repository/machine.ts';
import {streamTask} from '../../rx/task-stream.ts';
import {expand} from '../../vma/blocks.ts';
import {CLUSTER_BYTES, clusterLength, VMSTATE} from '../../vma/geometry.ts';
import type {VmaDevice, VmaHeader} from '../../vma/header.ts';
import {type ArchiveSource, openArchiveSource} from './archive-source.ts';
import {type ArchivedNames, archivedNames} from './archived-names.ts';
import {MACHINE_CONFIG} from './open-archive.ts';

export interface RestoreArchiveOptions {
	readonly source: ArchiveSource;
	/**
	 * A folder for all disks, which must not exist or be empty, also one that is chosen once the header is read; or places for some
	 * disks, by name or by device.
	 */
	readonly to: string | ReadonlyMap<string, string> | ((header: VmaHeader) => Promise<string>);
	readonly signal: AbortSignal;
}

export interface RestoredDevice {
	readonly disk: string;
	readonly device: string;
	readonly path: string;
	readonly bytes: number;
}

export type RestoreArchiveMessage =
	| {readonly kind: 'started'; readonly disks: readonly RestoredDevice[]; readonly checked: 'by-index' | 'not-at-all'}
	| {readonly kind: 'progress'; readonly bytesRead: number; readonly bytesTotal: number | undefined}
	| {
			readonly kind: 'finished';
			readonly disks: readonly RestoredDevice[];
			/** Null where the archive has none of ours. */
			readonly machine: Machine | null;
			/** The configuration files that were written beside the disks. */
			readonly configs: readonly string[];
	  };

const EVERY = 1024;
const ZEROES = Buffer.alloc(CLUSTER_BYTES);

/** An open place for a disk. */
interface OpenTarget extends RestoredDevice {
	readonly handle: FileHandle;
	/** A device has old data, which zeroes have to overwrite; a new file has not. */
	readonly kind: 'new-file' | 'device';
}

/**
 * Brings the disks of an archive back, to new files or to block devices, raw. Cold. Files appear under their names once all of
 * the archive was read and found sound; if it fails, none is left. What a device holds then is anything.
 */
export function restoreArchive({source, to, signal}: RestoreArchiveOptions): Observable<RestoreArchiveMessage> {
	return streamTask<RestoreArchiveMessage>(signal, async (emit, ended) => {
		const archive = await openArchiveSource(source, ended);
		await using undo = new AsyncDisposableStack();
		undo.defer(archive.close);
		let header: VmaHeader | undefined;
		let place: string | ReadonlyMap<string, string> = '';
		let targets: ReadonlyMap<number, OpenTarget> = new Map();
		let clusters = 0;
		for await (const event of archive.events) {
			if (event.kind === 'header') {
				({header} = event);
				place = typeof to === 'function' ? await to(header) : to;
				targets = await openTargets(undo, header, place);
				emit({kind: 'started', disks: [...targets.values()].map(reportOf), checked: archive.checked});
			} else if (event.kind === 'cluster') {
				const target = targets.get(event.device.id);
				if (target) await writeCluster(target, event);
				if (clusters++ % EVERY === 0) emit({kind: 'progress', ...archive.progress()});
			}
		}
		ended.throwIfAborted();
		if (!header) throw new Error('an archive without a header was read to its end');
		for (const {handle} of targets.values()) await handle.sync();
		for (const {handle} of targets.values()) await handle.close();
		const configs = typeof place === 'string' ? await writeConfigs(undo, header, place) : [];
		await appear([...targets.values()], typeof place === 'string' ? place : undefined);
		// What was made stays.
		undo.move();
		await archive.close();
		emit({kind: 'finished', disks: [...targets.values()].map(reportOf), machine: machineIn(header), configs});
	});
}

async function openTargets(
	undo: AsyncDisposableStack,
	header: VmaHeader,
	to: string | ReadonlyMap<string, string>,
): Promise<Map<number, OpenTarget>> {
	const names = archivedNames(header);
	const disks = header.devices.filter(({name}) => name !== VMSTATE);
	if (typeof to === 'string') await makeFolder(undo, to);
	else requireKnown(to, disks, names);
	const targets = new Map<number, OpenTarget>();
	for (const device of disks) {
		const disk = names.diskOf(device);
		const named = typeof to === 'string' ? path.join(to, `${names.fileOf(device)}.raw`) : placeOf(to, device, disk);
		if (named === undefined) continue;
		const {kind, path: file} = await inspectTarget(named, device.sizeBytes, 'raw');
		const handle = kind === 'device' ? await claimDevice(file) : await createPartial(undo, file);
		undo.defer(() => handle.close().catch(() => undefined));
		if (kind === 'new-file') await handle.truncate(device.sizeBytes);
		targets.set(device.id, {disk, device: device.name, path: file, bytes: device.sizeBytes, handle, kind});
	}
	return targets;
}

function placeOf(places: ReadonlyMap<string, string>, {name}: VmaDevice, disk: string): string | undefined {
	return places.get(disk) ?? places.get(name);
}

function requireKnown(places: ReadonlyMap<string, string>, disks: readonly VmaDevice[], names: ArchivedNames): void {
	const known = disks.flatMap(device => [device.name, names.diskOf(device)]);
	for (const name of places.keys()) {
		if (known.includes(name)) continue;
		throw new UsageError(`the archive has no disk ${name}`, {hint: `Its disks: ${[...new Set(known)].join(', ')}`});
	}
}

async function makeFolder(undo: AsyncDisposableStack, folder: string): Promise<void> {
	try {
		const made = await fs.mkdir(folder, {recursive: true, mode: 0o700});
		if (made !== undefined) {
			undo.defer(async () => {
				await fs.rmdir(folder).catch(() => undefined);
			});
		}
		if ((await fs.readdir(folder)).length === 0) return;
	} catch (error) {
		throw fileError('write to', folder, error);
	}
	throw new UsageError(`${folder} is not empty`, {hint: 'Name a folder that does not exist yet, or an empty one.'});
}

function partialOf(file: string): string {
	return path.join(path.dirname(file), `.${path.basename(file)}.partial`);
}

async function createPartial(undo: AsyncDisposableStack, file: string): Promise<FileHandle> {
	const partial = partialOf(file);
	const handle = await fs.open(partial, 'wx', 0o600).catch((error: unknown) => {
		throw fileError('create', partial, error);
	});
	undo.defer(() => fs.rm(partial, {force: true}));
	return handle;
}

async function writeCluster(
	{handle, kind, bytes}: OpenTarget,
	{cluster, mask, stored}: {readonly cluster: number; readonly mask: number; readonly stored: Buffer},
): Promise<void> {
	const length = clusterLength(cluster, bytes);
	if (mask === 0 && kind === 'new-file') return;
	const data = mask === 0 ? ZEROES.subarray(0, length) : expand(stored, mask, length);
	let done = 0;
	while (done < data.length) {
		const {bytesWritten} = await handle.write(data, done, data.length - done, cluster * CLUSTER_BYTES + done);
		done += bytesWritten;
	}
}

/** Their names are those of the archive, which were looked at when its header was read. */
async function writeConfigs(undo: AsyncDisposableStack, {configs}: VmaHeader, folder: string): Promise<string[]> {
	const written: string[] = [];
	for (const {name, data} of configs) {
		const file = path.join(folder, name);
		const handle = await fs.open(file, 'wx', 0o600).catch((error: unknown) => {
			throw fileError('create', file, error);
		});
		undo.defer(() => fs.rm(file, {force: true}));
		try {
			await handle.writeFile(data);
			await handle.sync();
		} finally {
			await handle.close();
		}
		written.push(file);
	}
	return written;
}

async function appear(targets: readonly OpenTarget[], folder: string | undefined): Promise<void> {
	const made = targets.filter(({kind}) => kind === 'new-file');
	for (const {path: file} of made) await moveToFreeName(partialOf(file), file);
	const folders = new Set([
		...made.map(({path: file}) => path.dirname(file)),
		...(folder === undefined ? [] : [folder]),
	]);
	for (const one of folders) await syncFolder(one);
}

/** What nobody can read of a foreign archive is as good as nothing. */
export function machineIn({configs}: VmaHeader): Machine | null {
	const found = configs.find(({name}) => name === MACHINE_CONFIG);
	return found ? parseMachine(found.data.toString(), MACHINE_CONFIG) : null;
}

function reportOf({disk, device, path: file, bytes}: OpenTarget): RestoredDevice {
	return {disk, device, path: file, bytes};
}
