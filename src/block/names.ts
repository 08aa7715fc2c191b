import {createHash, randomInt} from 'node:crypto';

/** Begins the name of everything of ours inside QEMU: what does not begin so is never touched. */
const PREFIX = 'qsc-';
const RUN_ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';
const RUN_LENGTH = 6;
const NAME = new RegExp(`^${PREFIX}(?<run>[${RUN_ALPHABET}]{${RUN_LENGTH}})-`);
const TAG_LENGTH = 12;
/** What is left of QEMU's 31 characters for a node name. */
const MAX_DISK = 12;

/** Six characters, some 10⁹ possibilities: enough to tell apart the runs that can have left something in one VM. */
export function newRunId(): string {
	return Array.from({length: RUN_LENGTH}, () => RUN_ALPHABET[randomInt(RUN_ALPHABET.length)]).join('');
}

/**
 * The name of a node or a job of a run: the names are the journal from which a later run can tell what is ours and
 * whose it was. At most 31 characters of QEMU's alphabet (util/id.c), so a long or odd disk name is shortened by a hash.
 */
export function objectName(
	run: string,
	disk: string,
	role?:
		| 'target'
		| 'filter'
		| 'scratch'
		| 'access'
		| 'export'
		| 'gate'
		| 'job'
		| 'bitmap'
		| 'changes'
		| 'mark'
		| 'overlay'
		| 'end'
		| 'sector',
): string {
	return `${PREFIX}${run}-${shortName(disk)}${role === undefined ? '' : `-${role}`}`;
}

function shortName(disk: string): string {
	if (/^[A-Za-z0-9._-]+$/.test(disk) && disk.length <= MAX_DISK) return disk;
	const hash = createHash('sha256').update(disk).digest('hex').slice(0, 6);
	return `${disk.replaceAll(/[^A-Za-z0-9]/g, '').slice(0, MAX_DISK - 7)}.${hash}`;
}

/**
 * The name of the node of an overlay, which outlives the run that made it and is no run's. Two of them never have the same,
 * though a snapshot's name may be given again.
 */
export function overlayName(vm: string, snapshot: string, run: string, disk: string): string {
	return `${PREFIX}${tagOf([vm, snapshot, run, disk])}-${shortName(disk)}`;
}

/**
 * The name of the bitmap that has recorded a disk's changes since a point, for those who know the point. It is no run's,
 * and stays. The tag tells repositories, VMs and disks apart: a bitmap that came with an image copied from elsewhere
 * is looked for by nobody. The run is in it because an id can be given again once its point is removed.
 */
export function bitmapName(tag: string, point: string, run: string): string {
	return `${PREFIX}${tag}-${point}-${run}`;
}

/** Longer than a run's id, so that it is never taken for one. */
export function bitmapTag(repository: string, vm: string, disk: string): string {
	return tagOf([repository, vm, disk]);
}

function tagOf(words: readonly string[]): string {
	return createHash('sha256').update(JSON.stringify(words)).digest('hex').slice(0, TAG_LENGTH);
}

/** Whether a bitmap is one that {@link bitmapName} named with this tag. */
export function isBitmapOf(tag: string, name: string): boolean {
	return name.startsWith(`${PREFIX}${tag}-`);
}

/** The run that an object belongs to, or undefined if it is not ours. */
export function runOf(name: string): string | undefined {
	return NAME.exec(name)?.groups?.['run'];
}

/** Whether a node of ours is one that {@link objectName} named `scratch`. */
export function isScratch(name: string): boolean {
	return runOf(name) !== undefined && name.endsWith('-scratch');
}

/** Whether a node of ours is one that {@link objectName} named `overlay`: it can hold what the guest wrote last. */
export function isTemporaryOverlay(name: string): boolean {
	return runOf(name) !== undefined && name.endsWith('-overlay');
}

/** Whether something of ours is to outlive the run that made it, as the bitmap of a point and the node of an overlay do. */
export function isLasting(name: string): boolean {
	return name.startsWith(PREFIX) && runOf(name) === undefined;
}
