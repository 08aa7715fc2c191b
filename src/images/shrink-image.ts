import {runTool} from './run-tool.ts';

/** Takes the end off a qcow2 image that nobody has open. What is cut off must not matter. */
export async function shrinkImage(file: string, sizeBytes: number): Promise<void> {
	const args = ['resize', '-q', '-f', 'qcow2', '--shrink', file, String(sizeBytes)];
	await runTool({tool: 'qemu-img', args, object: file});
}
