import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {requireNoForeignFiles} from '../images/qcow2-header.ts';
import {isSettled, readDiskChain} from './disk-chain.ts';
import {sumProgress} from './hash-file.ts';
import type {Point} from './points.ts';
import type {Repository} from './repository.ts';
import {contentProblem} from './verify-content.ts';
import {verifyFiles, verifyLink} from './verify-point.ts';

export interface SoundnessOptions {
	readonly signal?: AbortSignal | undefined;
	/** Of the stored files that are read, those of points beneath included. */
	readonly onProgress: (bytesRead: number, bytesTotal: number) => void;
}

/**
 * Checks all files that are read when the named disks of a point are, in it and in the points beneath: its documents, sizes,
 * checksums, and that the images name no files but each other. Throws `DAMAGED` with the first that is not as it was
 * written. Only what is not known by its files' checksums is opened with QEMU, and compared with what it is to show.
 */
export async function requireSound(
	repository: Repository,
	point: Point,
	disks: readonly string[],
	{signal, onProgress}: SoundnessOptions,
): Promise<void> {
	const wanted = point.manifest.disks.filter(({name}) => disks.includes(name));
	const chains = await Promise.all(wanted.map(disk => readDiskChain(repository, point, disk)));
	const known = chains.filter(({knownBy}) => knownBy === 'files').flatMap(({links}) => links);
	const bytesTotal = known.reduce((sum, {disk}) => sum + disk.storedBytes, 0);
	const onFile = sumProgress(bytesTotal, onProgress);
	const settled = (await isSettled(repository, point)) ? [point.id] : [];
	if (settled.length > 0) {
		const own = known.filter(link => link.point.id === point.id).map(({disk}) => disk);
		const [first] = (await verifyFiles(point, own, {signal, onProgress: onFile})).problems;
		if (first) throw damaged(path.join(point.folder, first.file), first.problem);
	}
	for (const link of known.filter(({point: {id}}) => !settled.includes(id))) {
		const {problem} = await verifyLink(link, {signal, onProgress: onFile});
		if (problem !== undefined) throw damaged(link.file, problem);
	}
	for (const {links} of chains) {
		for (const {file, disk, backingFile} of links) {
			const {sizeBytes, state} = await requireNoForeignFiles(file, backingFile);
			if (state === 'marked-corrupt') throw damaged(file, 'QEMU has marked it as corrupt');
			if (sizeBytes !== disk.sizeBytes) throw damaged(file, `it holds ${sizeBytes} bytes, not ${disk.sizeBytes}`);
		}
	}
	for (const chain of chains.filter(({knownBy}) => knownBy === 'content')) {
		const problem = await contentProblem(chain, {signal});
		if (problem !== undefined) throw damaged(chain.links.at(-1)?.file ?? '', problem);
	}
}

function damaged(file: string, problem: string): QuiesceError {
	return new QuiesceError('DAMAGED', `${file} is damaged: ${problem}`, {
		hint: 'Look for a sound point with `quiesce verify`. Disks that are sound can be restored one by one with --disk.',
	});
}
