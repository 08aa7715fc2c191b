import {cloneFile} from '../images/clone-file.ts';
import {createImage} from '../images/qemu-img.ts';
import type {SinkDisk} from './sink.ts';

/** Makes the file that a copy is written to, of `sizeBytes`; one that is cloned has the disk's own. */
export async function makeImage(
	{path, base}: SinkDisk,
	sizeBytes: number,
	compression: 'none' | 'zstd',
): Promise<void> {
	if (base?.kind === 'clone') await cloneFile(base.of, path);
	else {
		const backing = base && {file: base.backingFile, format: 'qcow2'};
		await createImage(path, {sizeBytes, compression, backing});
	}
}
