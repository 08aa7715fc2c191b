import * as v from 'valibot';
import {absolute} from './qemu-img.ts';
import {runTool} from './run-tool.ts';

const schema = v.object({
	'format-specific': v.optional(
		v.object({data: v.object({bitmaps: v.optional(v.array(v.object({name: v.string()})), [])})}),
	),
});

/** Removes the bitmaps that are stored in a closed qcow2 image, all of them: of a copy they mean nothing. */
export async function stripBitmaps(image: string, signal?: AbortSignal): Promise<void> {
	const file = absolute(image);
	const {stdout} = await runTool({
		tool: 'qemu-img',
		args: ['info', '--output=json', '-f', 'qcow2', file],
		object: file,
		signal,
	});
	for (const {name} of v.parse(schema, JSON.parse(stdout))['format-specific']?.data.bitmaps ?? []) {
		await runTool({tool: 'qemu-img', args: ['bitmap', '--remove', '-f', 'qcow2', file, name], object: file, signal});
	}
}
