import type {Stats} from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import {isLasting, overlayName} from '../block/names.ts';
import type {BlockGraph} from '../block/graph.ts';
import type {OverlaidDisk} from '../cut/external-snapshot.ts';
import {errnoOf, QuiesceError, UsageError} from '../errors.ts';
import type {HostProcess} from '../host/processes.ts';
import {systemReason} from '../images/plain-file.ts';
import {pointId} from '../repository/point-id.ts';
import {isSnapshotName, snapshotsFolder} from '../snapshots/layout.ts';
import type {SnapshotDisk} from '../snapshots/manifest.ts';
import type {OverlayFile} from '../snapshots/overlay-file.ts';
import {nameTaken} from '../snapshots/partial-snapshot.ts';
import {DEFAULT_TEMPLATE, overlayPath} from './overlay-path.ts';
import type {DiskWithMedium} from './select-disks.ts';
import type {SelectedForSnapshot} from './select-snapshot-disks.ts';
import {snapshotFolders, snapshotsIn} from './snapshot-folders.ts';
import type {SnapshotRequest} from './snapshot-messages.ts';
import {fileOn} from './source-images.ts';
import type {VmSession} from './vm-session.ts';
import {freeBytes, LEAST_BYTES} from './watch-space.ts';

const DEFAULT_CLUSTER = 64 * 1024;

export interface OverlayPlan {
	readonly disk: DiskWithMedium;
	readonly file: OverlayFile;
	/** For the cut. */
	readonly overlaid: OverlaidDisk;
	/** For the documents. */
	readonly record: SnapshotDisk & {readonly overlay: NonNullable<SnapshotDisk['overlay']>};
}

export interface PlannedSnapshot {
	readonly name: string;
	/** Where the snapshots of this VM are told of. */
	readonly folder: string;
	/** None for an internal one. */
	readonly overlays: readonly OverlayPlan[];
	/** Of all disks, for the documents. */
	readonly records: readonly SnapshotDisk[];
	readonly warnings: readonly string[];
}

/** What an operation has found out before it plans. */
export interface SnapshotFacts {
	readonly vm: Pick<VmSession, 'name' | 'uuid'>;
	readonly run: string;
	readonly graph: BlockGraph;
	readonly qemu: HostProcess | undefined;
	readonly selected: SelectedForSnapshot;
}

/** Looks at everything that can be looked at before anything is made, and throws for what cannot go well. Changes nothing. */
export async function planSnapshot(
	facts: SnapshotFacts,
	request: Pick<SnapshotRequest, 'snapshot' | 'folder' | 'overlayTemplate'>,
	now = new Date(),
): Promise<PlannedSnapshot> {
	const {vm, graph, qemu, selected} = facts;
	const known = await snapshotsIn(snapshotFolders(vm.name, graph, qemu?.cwd, request.folder));
	const name = chooseName(request.snapshot, new Set(known.map(snapshot => snapshot.name)), now);
	const readable = known.flatMap(snapshot => (snapshot.state === 'readable' ? [snapshot] : []));
	const template = request.overlayTemplate ?? DEFAULT_TEMPLATE;
	const overlays: OverlayPlan[] = [];
	const warnings: string[] = [...selected.warnings];
	for (const disk of selected.disks) {
		const base = await baseOf(disk, qemu?.cwd);
		if (path.dirname(base.file) === '/dev' && !path.isAbsolute(template)) {
			throw new QuiesceError(
				'REFUSED',
				`${disk.name} lies on the device ${base.file}, beside which no overlay can lie`,
				{
					hint: 'Say where with --overlay-template /folder/{disk}.{name}.qcow2.',
				},
			);
		}
		const file = overlayPath(template, {
			base: base.file,
			snapshot: name,
			disk: disk.fileName,
			vm: vm.name,
			known: readable,
		});
		if (overlays.some(other => other.file.file === file)) {
			throw new UsageError(`--overlay-template: two disks would have the overlay ${file}`, {
				hint: 'Let it have {disk} or {stem}.',
			});
		}
		warnings.push(...(await lookAtPlace(file, base, disk, path.isAbsolute(template))));
		overlays.push(planOverlay(facts, name, disk, base, file));
	}
	const [first] = overlays;
	const folder = request.folder ?? path.dirname(first?.record.base.file ?? '');
	return {
		name,
		folder: snapshotsFolder(path.resolve(folder), vm.name),
		overlays,
		records: overlays.map(({record}) => record),
		warnings,
	};
}

function planOverlay(
	{vm, run}: SnapshotFacts,
	snapshot: string,
	disk: DiskWithMedium,
	base: BaseFile,
	file: string,
): OverlayPlan {
	const {name, medium} = disk;
	const node = overlayName(vm.uuid ?? vm.name, snapshot, run, name);
	const {virtualSize: sizeBytes, clusterSize = DEFAULT_CLUSTER} = medium;
	const bitmaps = medium.bitmaps.filter(
		bitmap => isLasting(bitmap.name) && bitmap.recording && !bitmap.inconsistent && !bitmap.busy,
	);
	return {
		disk,
		file: {
			file,
			base: {file: base.file, format: base.format},
			sizeBytes,
			clusterBytes: medium.format === 'qcow2' ? clusterSize : DEFAULT_CLUSTER,
		},
		overlaid: {name, node: medium.node, overlay: {node, file}, bitmaps},
		record: {
			...{name, sizeBytes, deviceType: disk.deviceType ?? null},
			base: {file: base.file, format: base.format, inode: base.stat.ino},
			overlay: {file, format: 'qcow2', inode: null, node},
		},
	};
}

export function chooseName(named: string | undefined, taken: ReadonlySet<string>, now: Date): string {
	if (named !== undefined) {
		if (!isSnapshotName(named)) {
			throw new UsageError(`'${named}' cannot be the name of a snapshot`, {
				hint: 'It may have letters, digits, dots, dashes and underscores, 64 at the most, and begins with a letter or digit.',
			});
		}
		if (taken.has(named)) throw nameTaken(named, 'there is one of that name');
		return named;
	}
	for (let nth = 1; ; nth++) if (!taken.has(pointId(now, nth))) return pointId(now, nth);
}

export interface BaseFile {
	/** Absolute. */
	readonly file: string;
	/** As `qemu-img` calls it. */
	readonly format: string;
	readonly stat: Stats;
}

/** The disk's image, as a file of this host, with all that it lies on. */
export async function baseOf({name, medium}: DiskWithMedium, qemuFolder: string | undefined): Promise<BaseFile> {
	const images = [medium.filename, ...medium.chain.slice(1).map(node => node.filename)];
	const stats: Stats[] = [];
	for (const filename of images) {
		const file = fileOn(filename, qemuFolder);
		// A chain may go on over the network; what is a file has to be there, or the VM would not start again.
		if (file === undefined && filename !== medium.filename) continue;
		stats.push(await statImage(name, file, filename));
	}
	const [stat] = stats;
	const file = fileOn(medium.filename, qemuFolder);
	if (!stat || file === undefined) throw new Error(`${medium.filename} is no file`);
	return {file, format: medium.format === medium.protocol ? 'raw' : medium.format, stat};
}

async function statImage(disk: string, file: string | undefined, filename: string): Promise<Stats> {
	const refused = (why: string, cause?: unknown) =>
		new QuiesceError('REFUSED', `no snapshot can be taken of ${disk}: its image ${filename} ${why}`, {
			cause,
			hint: 'The overlay names its base, and without it the VM would not start again. Run where QEMU runs.',
		});
	if (file === undefined) throw refused('has a name that is relative to a folder which is not known');
	try {
		return await fs.stat(file);
	} catch (error) {
		throw refused(errnoOf(error) === 'ENOENT' ? 'is missing' : `cannot be looked at: ${systemReason(error)}`, error);
	}
}

/** Throws for a place where the overlay cannot be, and returns in words what is poor about it. */
async function lookAtPlace(file: string, base: BaseFile, disk: DiskWithMedium, isChosen: boolean): Promise<string[]> {
	const folder = path.dirname(file);
	const refused = (why: string, hint: string, cause?: unknown) =>
		new QuiesceError('REFUSED', `the overlay ${file} of ${disk.name} cannot be made: ${why}`, {hint, cause});
	if (
		await fs.lstat(file).then(
			() => true,
			() => false,
		)
	) {
		throw refused('it exists', 'Name another snapshot, or another place with --overlay-template.');
	}
	const stat = await fs.stat(folder).catch((error: unknown) => {
		throw refused(
			`${folder}: ${systemReason(error)}`,
			'Make the folder, or name another with --overlay-template.',
			error,
		);
	});
	await fs.access(folder, fs.constants.W_OK | fs.constants.X_OK).catch((error: unknown) => {
		throw refused(`${folder}: ${systemReason(error)}`, 'Run as the user who owns the folder.', error);
	});
	const isElsewhere = base.stat.isFile() && stat.dev !== base.stat.dev;
	if (isElsewhere && !isChosen) {
		throw refused(
			`${folder} is another file system than that of ${base.file}`,
			'Name the place as an absolute path if that is meant: --overlay-template /folder/{disk}.{name}.qcow2.',
		);
	}
	const free = Math.max(0, (await freeBytes(folder)) - LEAST_BYTES);
	if (free === 0) throw refused(`no space is free in ${folder}`, 'Free some space. The guest would soon stand still.');
	return [
		...(isElsewhere
			? [`${disk.name}: the overlay is on another file system than its base: without either the VM does not start`]
			: []),
		...(free < disk.medium.virtualSize
			? [
					`${disk.name}: the overlay can grow to ${mib(disk.medium.virtualSize)} MiB, and ${folder} has ${mib(free)} MiB free: ` +
						'if that fills, QEMU pauses the VM',
				]
			: []),
	];
}

function mib(bytes: number): string {
	return Math.ceil(bytes / 1024 / 1024).toLocaleString('en');
}
