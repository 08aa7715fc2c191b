import * as v from 'valibot';
import {absolute} from './qemu-img.ts';
import {runTool} from './run-tool.ts';

/** A snapshot that a closed qcow2 image has in itself. */
export interface ImageSnapshot {
	/** Unique in the image, which a name need not be. */
	readonly id: string;
	readonly name: string;
	/** Of RAM and devices; 0 for a disk alone. */
	readonly memoryBytes: number;
}

/** What a closed qcow2 image has in itself besides the disk. */
export interface ImageContents {
	readonly snapshots: readonly ImageSnapshot[];
	/** Names. */
	readonly bitmaps: readonly string[];
}

const schema = v.object({
	'snapshots': v.optional(v.array(v.object({'id': v.string(), 'name': v.string(), 'vm-state-size': v.number()})), []),
	'format-specific': v.optional(
		v.object({data: v.object({bitmaps: v.optional(v.array(v.object({name: v.string()})), [])})}),
	),
});

export async function readImageContents(image: string, signal?: AbortSignal): Promise<ImageContents> {
	const file = absolute(image);
	const {stdout} = await runTool({
		tool: 'qemu-img',
		args: ['info', '--output=json', '-f', 'qcow2', file],
		object: file,
		signal,
	});
	const {snapshots, 'format-specific': specific} = v.parse(schema, JSON.parse(stdout));
	return {
		snapshots: snapshots.map(({id, name, 'vm-state-size': memoryBytes}) => ({id, name, memoryBytes})),
		bitmaps: specific?.data.bitmaps.map(({name}) => name) ?? [],
	};
}

/**
 * Makes a closed image hold what it held at a snapshot, under QEMU's lock. By the id: QEMU takes a name that is another
 * one's id for that. It is refused while a bitmap is in the image.
 */
export async function applySnapshot(image: string, {id}: Pick<ImageSnapshot, 'id'>): Promise<void> {
	const file = absolute(image);
	// It has no option for the format, so the image is described.
	const described = `driver=qcow2,file.driver=file,file.filename=${file.replaceAll(',', ',,')}`;
	await runTool({tool: 'qemu-img', args: ['snapshot', '--image-opts', '-a', id, described], object: file});
}

export async function removeBitmap(image: string, name: string, signal?: AbortSignal): Promise<void> {
	const file = absolute(image);
	await runTool({tool: 'qemu-img', args: ['bitmap', '--remove', '-f', 'qcow2', file, name], object: file, signal});
}
