import type {Medium} from '../block/medium.ts';
import type {PointKind, QemuProcess, SourceImage, StoredDisk} from '../repository/manifest.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {imageChange, overlaysSince} from './source-images.ts';

export type WishedKind = 'auto' | PointKind;

export interface KindWishes {
	/** `auto`, the default, is incremental. Where a disk cannot have what is wished for, it gets a full. */
	readonly kind?: WishedKind | undefined;
	/** The greatest age of the full copy that an increment goes back to. */
	readonly fullEveryMs?: number | undefined;
	/** Bytes for one bit of the bitmaps that begin; undefined to choose by the disk's size. */
	readonly granularity?: number | undefined;
}

/** A disk as an earlier point has it. */
export interface EarlierCopy {
	readonly point: string;
	readonly disk: StoredDisk;
	/** The QEMU of then; null where it is not known. */
	readonly qemuProcess: QemuProcess | null;
	/** When the full copy that it goes back to was begun. */
	readonly fullAt: Date;
	/** How many images it is read from; undefined where nobody looked. */
	readonly images?: number | undefined;
	/** `unsettled` while its image may be exchanged for a merged one; undefined where nobody looked. */
	readonly state?: 'settled' | 'unsettled' | undefined;
	/** Why nothing can be based on it. */
	readonly problem?: string | undefined;
}

/** What is known of a disk when it is decided on. */
export interface DiskToday {
	readonly disk: DiskWithMedium;
	readonly images: readonly SourceImage[] | null;
	readonly qemuProcess: QemuProcess | null;
	/** Of the VM; undefined is on. Where it is off, the process is that of a daemon of ours. */
	readonly power?: 'on' | 'off' | undefined;
	/** A program that has its image open for writing, besides the VM's QEMU. */
	readonly writer?: string | undefined;
	/** Bitmaps that have not the mark which they began with. */
	readonly lossy?: ReadonlySet<string> | undefined;
	readonly now: Date;
}

export type CopyDecision =
	| {readonly kind: 'full'; readonly reason: string}
	| {
			readonly kind: 'incremental' | 'differential';
			readonly parent: EarlierCopy;
			/** Why it is not based on the newest point; null if it is. */
			readonly reason: string | null;
	  };

/**
 * Full, or what has changed since which point. An increment has to be proved sound: its parent is the point that the
 * bitmap's own name says, so that a bitmap and what it is counted from cannot be mixed up, and that bitmap must have seen
 * every write since. `earlier` has the copies of this disk, the newest first.
 */
export function decideCopy(today: DiskToday, earlier: readonly EarlierCopy[], wishes: KindWishes): CopyDecision {
	if (wishes.kind === 'full') return {kind: 'full', reason: 'a full was asked for'};
	const never = neverIncremental(today);
	if (never !== undefined) return {kind: 'full', reason: never};
	const [newest] = earlier;
	if (!newest) return {kind: 'full', reason: 'it is the first point of this disk in the repository'};
	const candidates = wishes.kind === 'differential' ? earlier.filter(({disk}) => disk.kind === 'full') : earlier;
	const problems = candidates.map(copy => problemWith(copy, today));
	const found = problems.indexOf(undefined);
	const parent = candidates[found];
	if (!parent) return {kind: 'full', reason: problems[0] ?? 'no full of it is in the repository'};
	const ageMs = today.now.getTime() - parent.fullAt.getTime();
	if (wishes.fullEveryMs !== undefined && ageMs >= wishes.fullEveryMs) {
		return {kind: 'full', reason: `the last full is of ${parent.fullAt.toISOString()}, and a new one was due`};
	}
	const reason = found === 0 ? null : `nothing can be based on ${candidates[0]?.point ?? ''}: ${problems[0] ?? ''}`;
	return {kind: wishes.kind === 'differential' ? 'differential' : 'incremental', parent, reason};
}

/** Why no bitmap of this disk is to be trusted, whatever it says. */
export function neverIncremental({disk, writer}: Pick<DiskToday, 'disk' | 'writer'>): string | undefined {
	if (disk.deviceType?.startsWith('cfi.pflash') === true) return 'it is firmware, which is small';
	if (disk.medium.readOnly) return 'it is read-only';
	if (disk.shared) return 'share-rw is on: what others write to it is seen by no bitmap';
	if (writer !== undefined) return `${writer} has its image open for writing, and no bitmap sees what that writes`;
	return undefined;
}

function problemWith({point, disk: then, problem, qemuProcess}: EarlierCopy, today: DiskToday): string | undefined {
	const {medium} = today.disk;
	if (problem !== undefined) return `point ${point} is damaged: ${problem}`;
	if (then.sizeBytes !== medium.virtualSize) {
		return `it had ${then.sizeBytes} bytes at point ${point}, and has ${medium.virtualSize}`;
	}
	const changed = imageChange(then.source, today.images, isSameQemu(qemuProcess, today.qemuProcess));
	const {bitmap} = then;
	const found = bitmap && medium.bitmaps.find(({name}) => name === bitmap.name);
	if (!found && bitmap && medium.chain.slice(1).some(({bitmaps}) => bitmaps.some(({name}) => name === bitmap.name))) {
		return 'another program took a snapshot, and its bitmap stayed with the image beneath';
	}
	if (changed !== undefined) return changed;
	if (!bitmap) return `no bitmap was begun at point ${point}`;
	if (!found) return missing(medium, qemuProcess, today);
	const beneath = medium.chain.slice(1, 1 + overlaysSince(then.source, today.images));
	for (const node of beneath) {
		const below = node.bitmaps.find(({name}) => name === bitmap.name);
		if (!below || below.inconsistent || !below.recording || below.busy || below.granularity !== bitmap.granularity) {
			return `its image is beneath an overlay, and the bitmap of ${node.filename} has not seen all that was written to that`;
		}
	}
	if (found.inconsistent) return `its bitmap is inconsistent: QEMU was killed while it was in use${before(today)}`;
	if (!found.recording) return 'its bitmap was disabled, and has missed writes';
	if (found.busy) return 'its bitmap is in use by a job or an export of another program';
	if (found.granularity !== bitmap.granularity) {
		return `its bitmap has a granularity of ${found.granularity} bytes, and had ${bitmap.granularity}: another one bears its name`;
	}
	if (today.lossy?.has(bitmap.name))
		return 'its bitmap was cleared, or the disk was made smaller for a while: it has lost bits';
	return undefined;
}

function isSameQemu(then: QemuProcess | null, now: QemuProcess | null): boolean {
	return then !== null && then.startTicks === now?.startTicks && then.bootId === now.bootId;
}

function missing({format}: Medium, then: QemuProcess | null, {power, qemuProcess: now}: DiskToday): string {
	if (power === 'off') {
		return format === 'qcow2'
			? 'its bitmap is missing: QEMU was killed, or another program removed it'
			: `its bitmap is missing: QEMU kept that of a ${format} disk in memory only`;
	}
	if (!then || !now || isSameQemu(then, now)) {
		return 'its bitmap is missing: another program removed it, as a revert to a snapshot does, or its run was killed';
	}
	if (format !== 'qcow2') {
		return `its bitmap is missing: QEMU keeps that of a ${format} disk in memory only, and was started anew on ${now.startedAt}`;
	}
	return `its bitmap is missing: QEMU was killed before it was started anew on ${now.startedAt}`;
}

function before({qemuProcess, power}: DiskToday): string {
	return qemuProcess === null || power === 'off' ? '' : `, before ${qemuProcess.startedAt}`;
}
