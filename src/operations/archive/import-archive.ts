import fs from 'node:fs/promises';
import path from 'node:path';
import {lastValueFrom, type Observable, tap} from 'rxjs';
import {QuiesceError, UsageError} from '../../errors.ts';
import {convertImage} from '../../images/convert-image.ts';
import {writeHashes} from '../../repository/content-hashes.ts';
import {hashesFileName, imageFileName} from '../../repository/layout.ts';
import type {Machine} from '../../repository/machine.ts';
import type {PointManifest} from '../../repository/manifest.ts';
import {createPartialPoint, type DiskDraft, type PartialPoint} from '../../repository/partial-point.ts';
import {openOrCreateRepository} from '../../repository/repository.ts';
import {streamTask} from '../../rx/task-stream.ts';
import {programVersion} from '../../version.ts';
import {VMSTATE} from '../../vma/geometry.ts';
import type {VmaHeader} from '../../vma/header.ts';
import {removeDeadPartials} from '../dead-partials.ts';
import {hashImages} from '../hash-images.ts';
import {beginRun} from '../run.ts';
import {lockPoints} from '../with-points.ts';
import type {ArchiveSource} from './archive-source.ts';
import {PROXMOX_CONFIG} from './open-archive.ts';
import {machineIn, restoreArchive, type RestoreArchiveMessage, type RestoredDevice} from './restore-archive.ts';

export interface ImportRequest {
	readonly source: ArchiveSource;
	/** Made if there is none. */
	readonly repository: string;
	/** Of the VM; else what the archive says. */
	readonly name?: string | undefined;
	readonly compression: 'none' | 'zstd';
	readonly signal: AbortSignal;
}

export type ImportMessage =
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'started'; readonly vm: string; readonly point: string; readonly checked: 'by-index' | 'not-at-all'}
	| Extract<RestoreArchiveMessage, {kind: 'progress'}>
	/** All of the archive is read and sound. `done` goes from 0 to 1. */
	| {readonly kind: 'storing'; readonly disk: string; readonly bytes: number; readonly done: number}
	| {readonly kind: 'finished'; readonly manifest: PointManifest; readonly folder: string};

/** Hidden, so that it is no part of the point. */
const RAW_FOLDER = '.archive';

interface Begun {
	readonly header: VmaHeader;
	readonly vm: string;
	readonly partial: PartialPoint;
}

/**
 * Makes a full point of an archive. Cold. The disks are written to the unfinished point first, raw, and become images once the
 * archive has been read to its end: one that is damaged or cut off leaves nothing.
 */
export function importArchive(request: ImportRequest): Observable<ImportMessage> {
	return streamTask<ImportMessage>(request.signal, async (emit, signal) => {
		const repository = await openOrCreateRepository(request.repository);
		const doing = `import since ${new Date().toISOString()}`;
		await using undo = new AsyncDisposableStack();
		const run = await beginRun(doing);
		undo.defer(() => run.end());
		let begun: Begun | undefined;
		const begin = async (header: VmaHeader): Promise<string> => {
			const vm = request.name ?? nameIn(header);
			const lock = await lockPoints(repository, vm, {run: run.id, doing});
			undo.defer(() => lock.release());
			for (const text of await removeDeadPartials(repository, vm)) emit({kind: 'recovered', text});
			const partial = await createPartialPoint(repository, vm, createdAt(header), run.id);
			undo.defer(() => partial.abandon());
			begun = {header, vm, partial};
			return path.join(partial.folder, RAW_FOLDER);
		};
		const restored = await lastValueFrom(
			restoreArchive({source: request.source, to: begin, signal}).pipe(
				tap(message => {
					if (message.kind === 'progress') emit(message);
					if (message.kind === 'started' && begun) {
						emit({kind: 'started', vm: begun.vm, point: begun.partial.id, checked: message.checked});
					}
				}),
			),
			{defaultValue: undefined},
		);
		if (!begun || restored?.kind !== 'finished') throw new Error('a restore has ended without its end');
		const {vm, partial, header} = begun;
		const disks = await storeDisks(restored.disks, partial, request.compression, {emit, signal, folder: run.folder});
		await fs.rm(path.join(partial.folder, RAW_FOLDER), {recursive: true});
		const machine = restored.machine ?? machineOf(header, vm, restored.disks);
		const point = await partial.finish(
			{
				...{uuid: machine.uuid, cutAt: createdAt(header).toISOString(), consistency: 'crash-consistent'},
				...{freeze: null, standstill: null, group: null},
				qemu: {version: machine.qemuVersion, package: '', process: null},
				tool: {version: programVersion()},
				...{method: 'import', sink: 'archive', compression: request.compression},
				disks: disks.map(disk => ({...disk, format: formatIn(machine, disk.name)})),
				skipped: header.devices.some(({name}) => name === VMSTATE)
					? [{name: VMSTATE, reason: 'the memory of a VM is not kept in points'}]
					: [],
				warnings: [],
			},
			machine,
			{signal},
		);
		emit({kind: 'finished', manifest: point.manifest, folder: point.folder});
	});
}

async function storeDisks(
	restored: readonly RestoredDevice[],
	partial: PartialPoint,
	compression: ImportRequest['compression'],
	{emit, signal, folder}: {emit: (message: ImportMessage) => void; signal: AbortSignal; folder: string},
): Promise<DiskDraft[]> {
	const drafts: DiskDraft[] = [];
	for (const {disk, path: raw, bytes} of restored) {
		const file = imageFileName(path.basename(raw, '.raw'));
		const converted$ = convertImage({
			...{source: raw, sourceFormat: 'raw', target: partial.path(file), targetFormat: 'qcow2', targetKind: 'new-file'},
			...{compression, signal},
		});
		const told$ = converted$.pipe(
			tap(done => {
				emit({kind: 'storing', disk, bytes, done});
			}),
		);
		await lastValueFrom(told$, {defaultValue: 1});
		await fs.rm(raw);
		drafts.push({
			...{name: disk, file, sizeBytes: bytes, format: 'raw', deviceType: null, kind: 'full', reason: null},
			...{parent: null, chain: null, layout: 'alone', backing: null, hashes: hashesFileName(file)},
			...{bitmap: null, source: null},
		});
	}
	const images = drafts.map(({name, file, sizeBytes}) => ({
		...{name, path: partial.path(file), sizeBytes},
		keepHashes: (records: Parameters<typeof writeHashes>[1]) =>
			writeHashes(partial.path(hashesFileName(file)), records),
	}));
	await hashImages(folder, images, {signal});
	return drafts;
}

function createdAt({createdSeconds}: VmaHeader): Date {
	// The year 9999 is the last that a point can name.
	if (createdSeconds < 253_402_300_800) return new Date(createdSeconds * 1000);
	throw new QuiesceError('DAMAGED', `the archive says that it was made ${createdSeconds} s after 1970`);
}

function nameIn(header: VmaHeader): string {
	const name = machineIn(header)?.name ?? setting(header, 'name');
	if (name !== undefined) return name;
	throw new UsageError('the archive does not say how its VM is called', {hint: 'Name it with --name.'});
}

/** As little as an archive of Proxmox tells in a form that needs no interpretation. */
function machineOf(header: VmaHeader, vm: string, disks: readonly RestoredDevice[]): Machine {
	return {
		...{format: 1, name: vm, machineType: setting(header, 'machine') ?? null, qemuVersion: 'unknown'},
		uuid: /uuid=(?<uuid>[0-9a-f-]{36})/i.exec(setting(header, 'smbios1') ?? '')?.groups?.['uuid'] ?? null,
		...{binary: null, commandLine: null, capturedAt: createdAt(header).toISOString()},
		disks: disks.map(({disk}) => ({name: disk, filename: null, format: 'raw', nodeNames: []})),
	};
}

/** The VM's own; what follows in sections is of its snapshots. */
function setting({configs}: VmaHeader, key: string): string | undefined {
	const text = configs.find(({name}) => name === PROXMOX_CONFIG)?.data.toString() ?? '';
	const [own = ''] = text.split(/^\[/m);
	return new RegExp(`^${key}: *(?<value>\\S+)`, 'm').exec(own)?.groups?.['value'];
}

function formatIn({disks}: Machine, disk: string): string {
	return disks.find(({name}) => name === disk)?.format ?? 'raw';
}
