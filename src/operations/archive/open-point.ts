import path from 'node:path';
import {UsageError} from '../../errors.ts';
import {StorageDaemon} from '../../images/storage-daemon.ts';
import type {Machine} from '../../repository/machine.ts';
import type {PointManifest, StoredDisk} from '../../repository/manifest.ts';
import {type Point, readMachine, resolvePoint} from '../../repository/points.ts';
import {openRepository} from '../../repository/repository.ts';
import {requireSound} from '../../repository/require-sound.ts';
import {socketIn} from '../../sink/nbd-socket.ts';
import {beginRun} from '../run.ts';

export interface PointChoice {
	readonly repository: string;
	readonly vm: string;
	/** An id or its unique beginning; the newest if not given. */
	readonly point?: string | undefined;
	/** The names of some disks; all if not given. */
	readonly only?: readonly string[] | undefined;
}

/** A disk of a point, as the storage daemon shows it. */
export interface ServedDisk {
	readonly disk: StoredDisk;
	/** The topmost image of its chain. */
	readonly file: string;
	/** The name of the NBD export. */
	readonly exportName: string;
}

export interface ServedPoint extends AsyncDisposable {
	readonly point: Point;
	readonly machine: Machine;
	readonly disks: readonly ServedDisk[];
	/** Of the NBD server, in a folder that only our own user may enter. */
	readonly socket: string;
	/** Rejects if the storage daemon ends. */
	readonly died: Promise<never>;
}

/** Finds a point and the disks of it that are wanted. Throws `USAGE` for one that it lacks. */
export async function choosePoint(choice: PointChoice): Promise<{point: Point; disks: readonly StoredDisk[]}> {
	const repository = await openRepository(choice.repository);
	const point = await resolvePoint(repository, choice.vm, choice.point);
	return {point, disks: disksOf(point.manifest, choice.only)};
}

/**
 * Checks a point as a restore does, and has a storage daemon of its own open the images of its disks, read-only, each with
 * all that it lies on. Throws `DAMAGED`. Ends with the process, however that ends.
 */
export async function servePoint(
	choice: PointChoice,
	{signal, onProgress}: {signal: AbortSignal; onProgress: (bytesRead: number, bytesTotal: number) => void},
): Promise<ServedPoint> {
	const {point, disks: stored} = await choosePoint(choice);
	const names = stored.map(({name}) => name);
	await requireSound(await openRepository(choice.repository), point, names, {signal, onProgress});
	const machine = await readMachine(point);
	await using undo = new AsyncDisposableStack();
	const run = await beginRun(`reading ${choice.vm} since ${new Date().toISOString()}`);
	undo.defer(() => run.end());
	const socket = socketIn(run.folder);
	const daemon = await StorageDaemon.start(socket, {whenKilled: 'die'});
	undo.defer(() => daemon.kill());
	const disks = stored.map((disk, index): ServedDisk => ({
		...{disk, file: path.join(point.folder, disk.file), exportName: `disk${index}`},
	}));
	for (const {file, exportName} of disks) {
		await daemon.serveReadOnly({name: exportName, path: file, chain: 'follow'});
	}
	const owned = undo.move();
	return {
		...{point, machine, disks, socket, died: daemon.died},
		[Symbol.asyncDispose]: () => owned.disposeAsync(),
	};
}

function disksOf({id, vm, disks}: PointManifest, only: readonly string[] | undefined): readonly StoredDisk[] {
	const unknown = only?.filter(name => !disks.some(disk => disk.name === name)) ?? [];
	if (unknown.length === 0) return disks.filter(({name}) => only?.includes(name) ?? true);
	throw new UsageError(`point ${id} of ${vm} has no disk ${unknown.join(', ')}`, {
		hint: `Its disks: ${disks.map(({name}) => name).join(', ')}`,
	});
}
