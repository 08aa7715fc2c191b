import {QuiesceError} from '../errors.ts';
import {progressReader} from './convert-image.ts';
import {absolute, imageInfo, type ImageFormat} from './qemu-img.ts';
import {runTool} from './run-tool.ts';

export interface CommitOptions {
	/** Ends QEMU's tool, which leaves the images as if it had been killed. */
	readonly signal?: AbortSignal | undefined;
	/** Of what it lies on, as it is to be named in its header; default qcow2. */
	readonly baseFormat?: ImageFormat | undefined;
	/** From 0 to 1. */
	readonly onProgress?: ((done: number) => void) | undefined;
}

/**
 * Writes all that a qcow2 image stores into the one beneath it, zeroes as zeroes. The image itself stays as it is, and
 * so does what it shows: wherever this ends, what the one beneath lacks is in the upper one. Fails if anybody has one of
 * them open. What was written may still be in the page cache. The headers of both must have been checked.
 */
export async function commitImage(
	image: string,
	{signal, baseFormat = 'qcow2', onProgress}: CommitOptions = {},
): Promise<void> {
	const file = absolute(image);
	const {backingFormat} = await imageInfo(file, 'qcow2', signal);
	if (backingFormat !== baseFormat) {
		throw new QuiesceError(
			'DAMAGED',
			`${file} calls what it lies on ${backingFormat ?? 'nothing'} and not ${baseFormat}`,
		);
	}
	await runTool({
		tool: 'qemu-img',
		// -d: else the image would be emptied.
		args: ['commit', '-p', '-d', '-f', 'qcow2', file],
		object: file,
		signal,
		whenKilled: 'die',
		onOutput: progressReader(done => onProgress?.(done)),
	});
}
