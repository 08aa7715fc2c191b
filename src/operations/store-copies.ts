import path from 'node:path';
import {CLUSTER_BYTES, type HashRecord} from '../images/hash-records.ts';
import {extendHashes, writeHashes} from '../repository/content-hashes.ts';
import {backingFileName, hashesFileName, imageFileName, pointFolder} from '../repository/layout.ts';
import type {DiskDraft, PartialPoint} from '../repository/partial-point.ts';
import type {ImageBase, SinkDisk} from '../sink/sink.ts';
import {bitmapFor, type DiskCopy} from './plan-copies.ts';
import type {PointTask} from './point-task.ts';

/** By the disk's name: data that was written to its image, without zeroes. */
export type WrittenBytes = Map<string, number>;

/** What is known of the copies once they are made. */
export interface CopyFacts {
	/** The disks whose new bitmap has its mark. */
	readonly marked: ReadonlySet<string>;
	readonly written: WrittenBytes;
}

/** What a sink is to make of a disk's copy. `written` is filled once it has been. */
export function sinkDiskOf(task: PointTask, partial: PartialPoint, copy: DiskCopy, written: WrittenBytes): SinkDisk {
	const {name, fileName, medium} = copy.disk;
	return {
		name,
		path: partial.path(imageFileName(fileName)),
		sizeBytes: medium.virtualSize,
		base: baseOf(task, copy),
		keepHashes: records =>
			keepHashes(
				task,
				partial,
				copy,
				counted(records, bytes => written.set(name, (written.get(name) ?? 0) + bytes)),
			),
	};
}

/** What the point is to say of a disk. */
export function draftOf(
	task: PointTask,
	{id, run}: PartialPoint,
	copy: DiskCopy,
	{marked, written}: CopyFacts,
): DiskDraft {
	const {disk, kind, reason, layout, parent, granularity, images} = copy;
	const inherited = layout === 'clone' ? (parent?.disk.backing ?? null) : null;
	return {
		name: disk.name,
		file: imageFileName(disk.fileName),
		sizeBytes: disk.medium.virtualSize,
		format: disk.medium.format,
		deviceType: disk.deviceType ?? null,
		...{kind, reason, layout},
		addedBytes: layout === 'clone' ? (written.get(disk.name) ?? 0) : undefined,
		parent: parent?.point ?? null,
		chain: parent?.disk.chain ?? null,
		backing: layout === 'chain' ? (parent?.point ?? null) : inherited,
		hashes: task.request.hashes === 'none' ? null : hashesFileName(imageFileName(disk.fileName)),
		bitmap:
			granularity === undefined
				? null
				: {name: bitmapFor(task, disk.name, id, run), granularity, marked: marked.has(disk.name)},
		source: images,
	};
}

function keepHashes(
	{repository, vm}: PointTask,
	partial: PartialPoint,
	{disk, layout, parent}: DiskCopy,
	records: AsyncIterable<HashRecord>,
): Promise<void> {
	const file = partial.path(hashesFileName(imageFileName(disk.fileName)));
	if (layout !== 'clone' || !parent) return writeHashes(file, records);
	const before = path.join(pointFolder(repository.path, vm.name, parent.point), parent.disk.hashes ?? '');
	return extendHashes(before, file, disk.medium.virtualSize, records);
}

async function* counted(
	records: AsyncIterable<HashRecord>,
	onData: (bytes: number) => void,
): AsyncGenerator<HashRecord> {
	for await (const record of records) {
		if (record.content !== 'zero') onData(record.clusters * CLUSTER_BYTES);
		yield record;
	}
}

function baseOf({repository, vm}: PointTask, {layout, parent}: DiskCopy): ImageBase | undefined {
	if (!parent) return undefined;
	const {point, disk} = parent;
	if (layout === 'chain') return {kind: 'chain', backingFile: backingFileName(point, disk.file)};
	return {kind: 'clone', of: path.join(pointFolder(repository.path, vm.name, point), disk.file)};
}
