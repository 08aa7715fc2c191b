import {Observable, concatMap, from} from 'rxjs';
import {UsageError} from '../../errors.ts';
import {allRuns, ZERO_CONTEXT} from '../../images/cluster-runs.ts';
import {CLUSTER_BYTES} from '../../images/hash-records.ts';
import {readAhead} from '../../images/read-ahead.ts';
import {NbdClient} from '../../nbd/client.ts';
import {streamTask} from '../../rx/task-stream.ts';
import {restore} from '../restore.ts';
import {indexFile, openArchiveOutput} from './archive-output.ts';
import type {ArchiveWishes, ExportMessage, ExportedDisk} from './export-messages.ts';
import {type ArchiveContent, exportedDisks, openArchive} from './open-archive.ts';
import {choosePoint, type PointChoice, type ServedDisk, type ServedPoint, servePoint} from './open-point.ts';
import {type DiskPart, writeTar} from './tar.ts';

export type PointFormat = 'vma' | 'tar' | 'raw' | 'qcow2';

export interface ExportPointRequest extends PointChoice, ArchiveWishes {
	readonly format: PointFormat;
	readonly signal: AbortSignal;
}

type Emit = (message: ExportMessage) => void;

/**
 * Writes a point, or some of its disks, to one file or to a stream. Cold. The point is checked before anything is written; a file
 * appears when it is whole and durable, and if the export fails none is left.
 */
export function exportPoint(request: ExportPointRequest): Observable<ExportMessage> {
	if (request.format === 'raw' || request.format === 'qcow2') return exportDisk(request, request.format);
	return streamTask<ExportMessage>(request.signal, async (emit, signal) => {
		const onProgress = (bytesRead: number, bytesTotal: number): void => {
			emit({kind: 'checking', bytesRead, bytesTotal});
		};
		await using served = await servePoint(request, {signal, onProgress});
		emit(plannedOf(request, served.point.manifest.vm, disksOf(request, served)));
		const write = request.format === 'vma' ? writeVma : writeTarFile;
		const archiveBytes = await write(request, served, emit, signal);
		emit(finishedOf(request, served.point.manifest, disksOf(request, served), archiveBytes));
	});
}

async function writeVma(
	request: ExportPointRequest,
	served: ServedPoint,
	emit: Emit,
	signal: AbortSignal,
): Promise<number> {
	const {writer, devices, output} = await openArchive(contentOf(served), request);
	try {
		for (const [index, disk] of served.disks.entries()) {
			const id = devices[index]?.id ?? 0;
			for await (const {offset, length, bytes} of readDisk(served, disk, emit, signal)) {
				if (bytes) await writer.write(id, offset, bytes);
				else await writer.writeZeroes(id, offset, length);
			}
		}
		emit({kind: 'settling'});
		const {bytes} = await writer.finish();
		signal.throwIfAborted();
		await output.finish();
		return bytes;
	} catch (error) {
		await output.abandon();
		throw error;
	}
}

async function writeTarFile(
	{target, compression}: ExportPointRequest,
	served: ServedPoint,
	emit: Emit,
	signal: AbortSignal,
): Promise<number> {
	const output = await openArchiveOutput(target, compression, 'no-index');
	try {
		const bytes = await writeTar(served, output.archive, disk => readDisk(served, disk, emit, signal), signal);
		emit({kind: 'settling'});
		await output.finish();
		return bytes;
	} catch (error) {
		await output.abandon();
		throw error;
	}
}

async function* readDisk(
	{socket, died}: ServedPoint,
	{disk, exportName}: ServedDisk,
	emit: Emit,
	signal: AbortSignal,
): AsyncGenerator<DiskPart, void, void> {
	const client = await NbdClient.connect({unix: socket}, exportName, {metaContexts: [ZERO_CONTEXT], signal});
	// Its connection tells of its end too, with fewer words.
	const read = (offset: number, into: Buffer): Promise<Buffer> =>
		Promise.race([client.read(offset, into.length, into), died]);
	try {
		for await (const part of readAhead(client, allRuns(client), read)) {
			const offset = part.run.firstCluster * CLUSTER_BYTES;
			const length = Math.min(part.run.clusters * CLUSTER_BYTES, disk.sizeBytes - offset);
			yield {offset, length, bytes: part.content === 'data' ? part.bytes : undefined};
			emit({
				kind: 'progress',
				disks: [{disk: disk.name, doneBytes: offset + length, totalBytes: disk.sizeBytes}],
			});
		}
	} finally {
		await client.close();
	}
}

/** One disk to one file is what a restore does. */
function exportDisk(request: ExportPointRequest, format: 'raw' | 'qcow2'): Observable<ExportMessage> {
	return from(onlyDisk(request, format)).pipe(
		concatMap(({name, file}) => {
			const {repository, vm, point, signal} = request;
			return restore({repository, vm, point, format, signal, disks: new Map([[name, file]])});
		}),
		concatMap((message): readonly ExportMessage[] => {
			switch (message.kind) {
				case 'started':
					return [
						plannedOf(
							request,
							message.point.vm,
							message.disks.map(({disk, bytes}) => plainDisk(disk, bytes)),
						),
					];
				case 'checking':
					return [message];
				case 'progress': {
					const {disk, done, bytes} = message;
					return [{kind: 'progress', disks: [{disk, doneBytes: Math.floor(done * bytes), totalBytes: bytes}]}];
				}
				case 'restored':
					return [];
				case 'finished': {
					const disks = message.disks.map(({disk, bytes}) => plainDisk(disk, bytes));
					return [finishedOf(request, message.point, disks, disks[0]?.sizeBytes ?? 0)];
				}
			}
		}),
	);
}

async function onlyDisk(
	request: ExportPointRequest,
	format: 'raw' | 'qcow2',
): Promise<{readonly name: string; readonly file: string}> {
	if (request.target.kind === 'stream') {
		throw new UsageError(`a ${format} image cannot be streamed`, {hint: 'Name a file, or take --format tar.'});
	}
	if (request.compression !== 'none') throw new UsageError(`--compress is not for --format ${format}`);
	const {point, disks} = await choosePoint(request);
	const [disk, ...others] = disks;
	if (disk && others.length === 0) return {name: disk.name, file: request.target.path};
	throw new UsageError(`point ${point.id} of ${request.vm} has ${disks.length} disks, and a ${format} image has one`, {
		hint: `Name one with --disk: ${disks.map(({name}) => name).join(', ')}. Or take --format tar.`,
	});
}

function contentOf({machine, disks, point}: ServedPoint): ArchiveContent {
	return {
		machine,
		createdAt: new Date(point.manifest.cutAt),
		disks: disks.map(({disk: {name, sizeBytes, deviceType}}) => ({name, sizeBytes, deviceType})),
	};
}

function disksOf({format}: ExportPointRequest, served: ServedPoint): readonly ExportedDisk[] {
	if (format === 'vma') return exportedDisks(contentOf(served));
	return served.disks.map(({disk: {name, sizeBytes}}) => plainDisk(name, sizeBytes));
}

function plainDisk(name: string, sizeBytes: number): ExportedDisk {
	return {name, device: name, sizeBytes};
}

function plannedOf({compression}: ExportPointRequest, vm: string, disks: readonly ExportedDisk[]): ExportMessage {
	return {kind: 'planned', vm, disks, skipped: [], method: null, quiesce: false, compression};
}

function finishedOf(
	{target, format}: ExportPointRequest,
	{vm, cutAt, consistency}: ServedPoint['point']['manifest'],
	disks: readonly ExportedDisk[],
	archiveBytes: number,
): ExportMessage {
	const file = target.kind === 'file' ? target.path : null;
	const index = file !== null && format === 'vma' ? indexFile(file) : null;
	return {kind: 'finished', vm, file, index, archiveBytes, disks, cutAt, consistency, warnings: []};
}
