import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {QuiesceError} from '../errors.ts';
import {formatDocument} from '../repository/document.ts';
import {isThere, readDocument, replaceDurably} from '../repository/durable-files.ts';
import {hashFiles} from '../repository/hash-file.ts';
import {SUMS_FILE} from '../repository/layout.ts';
import {formatSums, parseSums} from '../repository/sums.ts';
import {SNAPSHOT_FILE} from './layout.ts';
import {parseSnapshot, type SnapshotDisk, type SnapshotManifest} from './manifest.ts';
import type {Snapshot} from './snapshots.ts';

/** What a merge does to the images of a disk, in the names of files. */
export interface MergedImages {
	readonly disk: string;
	/** `down`: into what lies beneath. `up`: into what the guest writes to. */
	readonly way: 'down' | 'up';
	readonly into: string;
	readonly intoFormat: string;
	/** Those that leave the chain, the top first. */
	readonly going: readonly string[];
	/** What lies on `into` afterwards, and says so in its header, if it is merged down beneath that. */
	readonly above: string | null;
	/** What `into` lies on afterwards, if it is merged up. */
	readonly below: string | null;
	/** Whether the files of those that leave are to be removed. */
	readonly removes: boolean;
}

export const mergedImages: v.GenericSchema<unknown, MergedImages> = v.looseObject({
	disk: v.string(),
	way: v.picklist(['down', 'up']),
	into: v.string(),
	intoFormat: v.string(),
	going: v.array(v.string()),
	above: v.nullable(v.string()),
	below: v.nullable(v.string()),
	removes: v.boolean(),
});

type Told = readonly Pick<Snapshot, 'folder'>[];

/**
 * Notes, durably and before anything is merged down, which snapshots will show what belongs to no instant: those of whose
 * overlays anything is written into what is beneath. That stays so if the merge is given up. Can be repeated.
 */
export async function tellWhatIsSpoiled(snapshots: Told, merges: readonly MergedImages[]): Promise<void> {
	await changeDisks(snapshots, merges, (disk, {way, going}) =>
		way === 'down' && disk.overlay && going.includes(disk.overlay.file) ? {...disk, spoiled: true} : disk,
	);
}

/**
 * Tells snapshots which images stand for theirs once all is merged. One whose two images have become one shows its disk no
 * more. Can be repeated.
 */
export async function tellWhatIsMerged(snapshots: Told, merges: readonly MergedImages[]): Promise<void> {
	await changeDisks(snapshots, merges, async (disk, {way, into, intoFormat, going, above, below, removes}) => {
		const {base, overlay} = disk;
		if (!overlay) return disk;
		const [isBaseGone, isOverlayGone] = [going.includes(base.file), going.includes(overlay.file)];
		const isLost = way === 'up' && isBaseGone && removes;
		const isOverInto = way === 'up' && base.file === below && isOverlayGone;
		const [becomesBase, becomesOverlay] = way === 'down' ? [isBaseGone, isOverlayGone] : [isLost, isLost || isOverInto];
		const isRewritten = becomesBase || base.file === above;
		if (!isRewritten && !becomesOverlay) return disk;
		const image = {file: into, format: intoFormat, inode: (await fs.stat(into)).ino};
		return {
			...disk,
			...(becomesBase ? {base: {...base, ...image}} : {}),
			...(isRewritten ? {rewrittenAt: new Date().toISOString()} : {}),
			overlay: becomesOverlay ? {...overlay, ...image} : overlay,
		};
	});
}

async function changeDisks(
	snapshots: Told,
	merges: readonly MergedImages[],
	change: (disk: SnapshotDisk, merge: MergedImages) => SnapshotDisk | Promise<SnapshotDisk>,
): Promise<void> {
	for (const {folder} of snapshots) {
		if (!(await isThere(folder))) continue;
		await changeManifest(folder, async manifest => {
			const disks = await Promise.all(
				manifest.disks.map(async disk => {
					const merge = merges.find(one => one.disk === disk.name);
					return merge ? change(disk, merge) : disk;
				}),
			);
			return {...manifest, disks};
		});
	}
}

/** Also puts the checksum right that a run which died in between has left. */
async function changeManifest(
	folder: string,
	change: (manifest: SnapshotManifest) => Promise<SnapshotManifest>,
): Promise<void> {
	const file = path.join(folder, SNAPSHOT_FILE);
	const before = await readDocument(file);
	const after = formatDocument(await change(parseSnapshot(before, file)));
	if (after !== before) await replaceDurably(file, after);
	const list = path.join(folder, SUMS_FILE);
	const sums = new Map(parseSums(await readDocument(list), list));
	const hash = (await hashFiles([file])).get(file);
	if (!hash || hash instanceof Error) throw new QuiesceError('FAILED', `${file} cannot be read again`);
	if (sums.get(SNAPSHOT_FILE) === hash.sha256) return;
	sums.set(SNAPSHOT_FILE, hash.sha256);
	await replaceDurably(list, formatSums(sums));
}
