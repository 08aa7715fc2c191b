import {hash} from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {formatDocument} from './document.ts';
import {readDocument, replaceDurably} from './durable-files.ts';
import {hashFiles} from './hash-file.ts';
import {EXPIRED_FILE, MANIFEST_FILE, SUMS_FILE} from './layout.ts';
import {kindOf, parseManifest, type PointManifest, type StoredDisk} from './manifest.ts';
import type {StoredPoint} from './points.ts';
import {formatSums, parseSums} from './sums.ts';

/** A disk of a point that is to go, and the one point whose image of it lies on that. */
export interface Merge {
	readonly lower: StoredPoint;
	readonly upper: StoredPoint;
	/** Its name. */
	readonly disk: string;
}

export interface RecordOptions {
	readonly signal?: AbortSignal | undefined;
	readonly onProgress: (bytesDone: number, bytesTotal: number) => void;
	/** Whether the merged file is to have a checksum. One that is to be merged on at once is known by its content. */
	readonly checksum: 'make' | 'omit';
}

/**
 * Makes the documents of `upper` say what its image has become. SHA256SUMS comes first: until the other one is in its place,
 * it still says that its image lies on that of `lower`, where the note tells readers not to go by either.
 */
export async function recordMerge(
	{lower, upper, disk: name}: Merge,
	{signal, onProgress, checksum}: RecordOptions,
): Promise<void> {
	const base = diskOf(lower.manifest, name);
	const tip = diskOf(upper.manifest, name);
	const image = path.join(upper.folder, tip.file);
	const {size: storedBytes} = await fs.stat(image);
	const read = [...(checksum === 'make' ? [tip.file] : []), ...(tip.hashes === null ? [] : [tip.hashes])];
	const hashes = await hashFiles(
		read.map(file => path.join(upper.folder, file)),
		{
			signal,
			onProgress: (file, bytes) => {
				if (file === image) onProgress(bytes, storedBytes);
			},
		},
	);
	const sumOf = (file: string | null): string | null => {
		const hash = file !== null && read.includes(file) ? hashes.get(path.join(upper.folder, file)) : undefined;
		if (hash instanceof Error) throw hash;
		return hash?.sha256 ?? null;
	};
	const disks = upper.manifest.disks.map(disk =>
		disk.name === name ? mergedDisk(base, tip, {storedBytes, sha256: sumOf(tip.file)}) : disk,
	);
	const text = formatDocument({...upper.manifest, disks, kind: kindOf(disks)} satisfies PointManifest);
	// What we could not read again is not written.
	parseManifest(text, MANIFEST_FILE);
	const document = path.join(upper.folder, upper.state === 'expired' ? EXPIRED_FILE : MANIFEST_FILE);
	const sumsFile = path.join(upper.folder, SUMS_FILE);
	const sums = new Map(parseSums(await readDocument(sumsFile), sumsFile));
	const set = (file: string | null, sum: string | null): void => {
		if (file === null) return;
		if (sum === null) sums.delete(file);
		else sums.set(file, sum);
	};
	set(tip.file, sumOf(tip.file));
	set(tip.hashes, sumOf(tip.hashes));
	set(MANIFEST_FILE, sha256Of(text));
	await replaceDurably(sumsFile, formatSums(sums));
	await replaceDurably(document, text);
}

/** The kind of the lower one: what that was since its parent, or all of the disk, the merged one is. */
function mergedDisk(base: StoredDisk, tip: StoredDisk, file: Pick<StoredDisk, 'storedBytes' | 'sha256'>): StoredDisk {
	const {kind, parent, chain, backing} = base;
	const isWhole = base.addedBytes === base.storedBytes;
	const added = base.addedBytes + tip.addedBytes;
	return {
		...tip,
		...file,
		...{kind, parent, chain, backing},
		layout: backing === null ? 'alone' : 'chain',
		addedBytes: isWhole ? file.storedBytes : Math.min(added, file.storedBytes),
		reason: kind === tip.kind ? tip.reason : null,
	};
}

function diskOf({id, disks}: PointManifest, name: string): StoredDisk {
	const disk = disks.find(candidate => candidate.name === name);
	if (!disk) throw new QuiesceError('DAMAGED', `point ${id} lacks the disk ${name}`);
	return disk;
}

function sha256Of(text: string): string {
	return hash('sha256', text);
}
