import fs from 'node:fs/promises';
import path from 'node:path';
import {lastValueFrom, type Observable, tap} from 'rxjs';
import {asError, errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {convertImage} from '../images/convert-image.ts';
import {claimDevice, type ImageTarget, inspectTarget} from '../images/image-target.ts';
import {type ImageFormat, measureImage} from '../images/qemu-img.ts';
import {streamTask} from '../rx/task-stream.ts';
import {fileError, moveToFreeName, syncFile, syncFolder} from '../repository/durable-files.ts';
import {imageStem} from '../repository/layout.ts';
import type {Machine} from '../repository/machine.ts';
import type {PointManifest, StoredDisk} from '../repository/manifest.ts';
import {type Point, readMachine, resolvePoint} from '../repository/points.ts';
import {openRepository, type Repository} from '../repository/repository.ts';
import {requireSound} from '../repository/require-sound.ts';

export interface RestoreOptions {
	readonly repository: string;
	readonly vm: string;
	/** An id or its unique beginning; the newest if not given. */
	readonly point?: string | undefined;
	/** A folder for all disks: a new or an empty one. Either this or `disks`. */
	readonly to?: string | undefined;
	/** For each disk to be restored, a new file or a block device. */
	readonly disks?: ReadonlyMap<string, string> | undefined;
	/** That which the disk had, if not given; `qcow2` if that was neither. Devices are always raw. */
	readonly format?: ImageFormat | undefined;
	/**
	 * Aborting fails the stream with the reason, once all that was written is removed. What was overwritten on a block
	 * device cannot be brought back.
	 */
	readonly signal?: AbortSignal | undefined;
}

export interface RestoredDisk {
	readonly disk: string;
	readonly path: string;
	readonly format: ImageFormat;
	/** What the guest sees. */
	readonly bytes: number;
}

export type RestoreMessage =
	| {readonly kind: 'started'; readonly point: PointManifest; readonly disks: readonly RestoredDisk[]}
	/** How much of the stored files has been read to check them; nothing is written yet. */
	| {readonly kind: 'checking'; readonly bytesRead: number; readonly bytesTotal: number}
	/** `done` goes from 0 to 1. */
	| ({readonly kind: 'progress'; readonly done: number} & RestoredDisk)
	| ({readonly kind: 'restored'} & RestoredDisk)
	| {
			readonly kind: 'finished';
			readonly disks: readonly RestoredDisk[];
			readonly point: PointManifest;
			readonly machine: Machine;
	  };

/** A disk of the point, and where it goes. */
interface Task {
	readonly disk: StoredDisk;
	readonly source: string;
	readonly target: ImageTarget;
	readonly report: RestoredDisk;
}

/**
 * Brings disks of a point back. Cold. All that is needed is checked before anything is written: the checksums of the
 * stored files (`DAMAGED`), the targets (`USAGE`) and the free space. Files appear under their names when they are whole
 * and on the disk; if the restore fails, none is left.
 */
export function restore({signal, ...options}: RestoreOptions): Observable<RestoreMessage> {
	return streamTask<RestoreMessage>(signal, async (emit, ended) => {
		const repository = await openRepository(options.repository);
		const point = await resolvePoint(repository, options.vm, options.point);
		const tasks = await plan(repository, point, options);
		const disks = tasks.map(({report}) => report);
		emit({kind: 'started', point: point.manifest, disks});
		const disksRead = tasks.map(({disk}) => disk.name);
		const onProgress = (bytesRead: number, bytesTotal: number): void => {
			emit({kind: 'checking', bytesRead, bytesTotal});
		};
		await requireSound(repository, point, disksRead, {signal: ended, onProgress});
		await requireSpace(tasks, ended);
		const machine = await readMachine(point);
		const undo: (() => Promise<void>)[] = [];
		try {
			if (options.to !== undefined) await makeFolder(path.resolve(options.to), undo);
			for (const task of tasks) {
				await write(task, undo, emit, ended);
				emit({kind: 'restored', ...task.report});
			}
			ended.throwIfAborted();
		} catch (error) {
			await undoAll(undo, error);
			throw error;
		}
		emit({kind: 'finished', disks, point: point.manifest, machine});
	});
}

async function plan(
	repository: Repository,
	point: Point,
	{to, disks, format}: Omit<RestoreOptions, 'signal'>,
): Promise<readonly Task[]> {
	if ((to === undefined) === (disks === undefined) || disks?.size === 0) {
		throw new UsageError('a restore goes either to a folder or, disk by disk, to files and devices');
	}
	const folder = to === undefined ? undefined : await freeFolder(to);
	const known = point.manifest.disks;
	const unknown = [...(disks?.keys() ?? [])].filter(name => !known.some(disk => disk.name === name));
	if (unknown.length > 0) {
		throw new UsageError(`point ${point.id} of ${point.manifest.vm} has no disk ${unknown.join(', ')}`, {
			hint: `Its disks: ${known.map(({name}) => name).join(', ')}`,
		});
	}
	const tasks: Task[] = [];
	for (const disk of known.filter(({name}) => folder !== undefined || disks?.has(name))) {
		const wanted = format ?? (await formatFor(disk, disks?.get(disk.name)));
		const target: ImageTarget =
			folder === undefined
				? await inspectTarget(disks?.get(disk.name) ?? '', disk.sizeBytes, wanted)
				: {kind: 'new-file', path: path.join(folder, `${imageStem(disk.file)}.${wanted}`), format: wanted};
		const report = {disk: disk.name, path: target.path, format: wanted, bytes: disk.sizeBytes};
		tasks.push({disk, source: path.join(point.folder, disk.file), target, report});
	}
	await requireApart(repository, tasks);
	return tasks;
}

async function formatFor({format}: StoredDisk, target: string | undefined): Promise<ImageFormat> {
	const stat = target === undefined ? undefined : await fs.stat(target).catch(() => undefined);
	return format === 'raw' || stat?.isBlockDevice() ? 'raw' : 'qcow2';
}

async function freeFolder(named: string): Promise<string> {
	const folder = path.resolve(named);
	try {
		if ((await fs.readdir(folder)).length === 0) return folder;
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return folder;
		if (errnoOf(error) === 'ENOTDIR') throw new UsageError(`${folder} is not a folder`, {cause: error});
		throw fileError('read', folder, error);
	}
	throw new UsageError(`${folder} is not empty, and nothing in it is overwritten`, {
		hint: 'Name a new or an empty folder.',
	});
}

/** No two disks go to one place, and none into the repository. */
async function requireApart(repository: Repository, tasks: readonly Task[]): Promise<void> {
	const places = new Set<string>();
	for (const {target} of tasks) {
		const place =
			target.kind === 'device'
				? await fs.realpath(target.path)
				: path.join(await fs.realpath(await existing(path.dirname(target.path))), path.basename(target.path));
		if (places.has(place)) throw new UsageError(`two disks cannot both be restored to ${target.path}`);
		if (place.startsWith(`${repository.path}/`)) {
			throw new UsageError(`${target.path} is inside the repository ${repository.path}`, {
				hint: 'Restore to another folder; what a repository holds is never edited.',
			});
		}
		places.add(place);
	}
}

async function requireSpace(tasks: readonly Task[], signal: AbortSignal): Promise<void> {
	const needs = new Map<number, {folder: string; bytes: number}>();
	for (const {source, target} of tasks) {
		if (target.kind === 'device') continue;
		const folder = await existing(path.dirname(target.path));
		const {dev} = await fs.stat(folder);
		const bytes = (needs.get(dev)?.bytes ?? 0) + (await measureImage(source, signal));
		needs.set(dev, {folder, bytes});
	}
	for (const {folder, bytes} of needs.values()) {
		const {bavail, bsize} = await fs.statfs(folder);
		if (bavail * bsize >= bytes) continue;
		throw new QuiesceError(
			'FAILED',
			`not enough space in ${folder}: ${bytes} bytes are needed, ${bavail * bsize} free`,
		);
	}
}

/** The folder, or the nearest one above it that exists. */
async function existing(folder: string): Promise<string> {
	try {
		await fs.stat(folder);
		return folder;
	} catch (error) {
		if (errnoOf(error) !== 'ENOENT' || path.dirname(folder) === folder) throw fileError('read', folder, error);
		return existing(path.dirname(folder));
	}
}

async function makeFolder(folder: string, undo: (() => Promise<void>)[]): Promise<void> {
	try {
		const first = await fs.mkdir(folder, {recursive: true, mode: 0o700});
		if (first === undefined) return;
		for (let made = folder; made.length >= first.length; made = path.dirname(made)) {
			undo.unshift(() => fs.rmdir(made));
		}
		await syncFolder(path.dirname(first));
	} catch (error) {
		throw fileError('create', folder, error);
	}
}

async function write(
	{source, target, report}: Task,
	undo: (() => Promise<void>)[],
	emit: (message: RestoreMessage) => void,
	signal: AbortSignal,
): Promise<void> {
	const {kind: targetKind, path: place, format: targetFormat} = target;
	const copy = async (to: string): Promise<void> => {
		const copy$ = convertImage({source, sourceFormat: 'qcow2', targetKind, target: to, targetFormat, signal});
		const told$ = copy$.pipe(
			tap(done => {
				emit({kind: 'progress', done, ...report});
			}),
		);
		await lastValueFrom(told$, {defaultValue: 1});
	};
	if (targetKind === 'device') {
		const device = await claimDevice(place);
		try {
			await copy(place);
			await device.sync();
		} finally {
			await device.close();
		}
		return;
	}
	const partial = `${place}.partial`;
	await copy(partial);
	undo.push(() => fs.rm(partial, {force: true}));
	try {
		await syncFile(partial);
		await moveToFreeName(partial, place);
		undo.push(() => fs.rm(place, {force: true}));
		await syncFolder(path.dirname(place));
	} catch (error) {
		throw fileError('write', place, error);
	}
}

/** The last first. Throws only to report what could not be undone, with the first error as the cause. */
async function undoAll(undo: readonly (() => Promise<void>)[], error: unknown): Promise<void> {
	try {
		for (const step of undo.toReversed()) await step();
	} catch (second) {
		throw new QuiesceError('FAILED', `${asError(error).message}; and then, while undoing: ${asError(second).message}`, {
			cause: new AggregateError([error, second]),
		});
	}
}
