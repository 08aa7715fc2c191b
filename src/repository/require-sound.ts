import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {requireNoForeignFiles} from '../images/qcow2-header.ts';
import {sumProgress} from './hash-file.ts';
import {type Point, readChain} from './points.ts';
import type {Repository} from './repository.ts';
import {backingOf, verifyFiles} from './verify-point.ts';

export interface SoundnessOptions {
	readonly signal?: AbortSignal | undefined;
	/** Of the stored files that are read, those of parents included. */
	readonly onProgress: (bytesRead: number, bytesTotal: number) => void;
}

/**
 * Checks all files that are read when the named disks of a point are, in it and in its parents: documents, sizes,
 * checksums, and that the images name no files but each other. Throws `DAMAGED` with the first that is not as it was
 * written. Opens no image with QEMU.
 */
export async function requireSound(
	repository: Repository,
	point: Point,
	disks: readonly string[],
	{signal, onProgress}: SoundnessOptions,
): Promise<void> {
	const chain = (await readChain(repository, point)).map((link, index, links) => ({
		link,
		parent: links[index - 1],
		stored: link.manifest.disks.filter(({name}) => disks.includes(name)),
	}));
	const bytesTotal = chain.flatMap(({stored}) => stored).reduce((sum, {storedBytes}) => sum + storedBytes, 0);
	const onFile = sumProgress(bytesTotal, onProgress);
	for (const {link, parent, stored} of chain) {
		const {problems} = await verifyFiles(link, stored, {signal, onProgress: onFile});
		const [first] = problems;
		if (first) throw damaged(path.join(link.folder, first.file), first.problem);
		for (const disk of stored) {
			const file = path.join(link.folder, disk.file);
			const {sizeBytes, state} = await requireNoForeignFiles(file, backingOf(parent, disk));
			if (state === 'marked-corrupt') throw damaged(file, 'QEMU has marked it as corrupt');
			if (sizeBytes !== disk.sizeBytes) throw damaged(file, `it holds ${sizeBytes} bytes, not ${disk.sizeBytes}`);
		}
	}
}

function damaged(file: string, problem: string): QuiesceError {
	return new QuiesceError('DAMAGED', `${file} is damaged: ${problem}`, {
		hint: 'Look for a sound point with `quiesce verify`. Disks that are sound can be restored one by one with --disk.',
	});
}
