import {constants} from 'node:fs';
import fs from 'node:fs/promises';
import {bitmapName, bitmapTag} from '../block/names.ts';
import {granularityFor} from '../block/granularity.ts';
import type {BlockNodes} from '../block/nodes.ts';
import type {Bitmap} from '../cut/cut.ts';
import {QuiesceError} from '../errors.ts';
import type {HostProcess} from '../host/processes.ts';
import {bootId, processStartedAt} from '../host/start-ticks.ts';
import {writersOf} from '../host/writers.ts';
import {canClone} from '../images/clone-file.ts';
import {problemOf, readDiskChain} from '../repository/disk-chain.ts';
import {vmFolder} from '../repository/layout.ts';
import type {ExposedBase} from '../repository/exposed.ts';
import type {DiskLayout, PointKind, QemuProcess, SourceImage, StoredDisk} from '../repository/manifest.ts';
import {timeOfPointId} from '../repository/point-id.ts';
import {listPoints, type Point} from '../repository/points.ts';
import type {Repository} from '../repository/repository.ts';
import type {SinkName} from '../sink/sink.ts';
import {
	type CopyDecision,
	decideCopy,
	type DiskToday,
	type EarlierCopy,
	type KindWishes,
	neverIncremental,
} from './decide-copy.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {canPersist, overlaysSince, sourceImages} from './source-images.ts';
import type {Session} from './vm-session.ts';

const MAX_IMAGES = 100;

export const LAYOUTS = ['auto', 'chain', 'clone'] as const;

export interface CopyWishes extends KindWishes {
	/** How increments are stored; `auto`, the default, is `clone` where the repository's file system can. */
	readonly layout?: (typeof LAYOUTS)[number] | undefined;
	/** What has changed since this point alone, or since what was exposed by that name, which nothing is stored on. */
	readonly since?: string | undefined;
}

/** What is to become of a disk in the point. */
export interface DiskCopy {
	readonly disk: DiskWithMedium;
	readonly kind: PointKind;
	/** Why it is of this kind, or not based on the newest point; null where it is as it should be. */
	readonly reason: string | null;
	readonly layout: DiskLayout;
	/** What it is based on, and the bitmap that says what has changed since; undefined for a full. */
	readonly parent?: {
		readonly point: string;
		readonly disk: StoredDisk;
		readonly changes: Bitmap;
		/** Nodes beneath the disk's, which it has been laid over since: their bitmaps of that name have a part in it too. */
		readonly beneath: readonly string[];
		readonly bytes: number;
	};
	/** The bitmap that the next point is to go by, once it is this point's; undefined where none could be trusted. */
	readonly granularity: number | undefined;
	/** Whether that outlives QEMU. */
	readonly persistence: 'persistent' | 'transient';
	readonly images: readonly SourceImage[] | null;
}

/** All of a disk, for what has no place for a part of one and is nothing to go by later. */
export function wholeCopy(disk: DiskWithMedium): DiskCopy {
	return {
		...{disk, kind: 'full', reason: null, layout: 'alone', images: null},
		...{granularity: undefined, persistence: 'transient'},
	};
}

/** What a backup has found out before it plans. */
export interface PlanFacts {
	readonly vm: Pick<Session, 'name' | 'uuid' | 'power'>;
	readonly repository: Repository;
	readonly nodes: BlockNodes;
	readonly disks: readonly DiskWithMedium[];
	readonly qemu: HostProcess | undefined;
	readonly sink: SinkName;
	/** The disks as they were exposed: then only these count. */
	readonly exposed?: ExposedBase | undefined;
	/** Whether a bitmap on the disk still has its mark. To look for it, nodes are added to the VM; undefined not to look. */
	readonly isMarked?: ((disk: DiskWithMedium, bitmap: Bitmap) => Promise<boolean>) | undefined;
}

export interface CopyPlan {
	readonly copies: readonly DiskCopy[];
	/** The VM's QEMU; null where it cannot be told. */
	readonly qemuProcess: QemuProcess | null;
	readonly warnings: readonly string[];
}

/** Decides for each disk by itself. Reads the repository and looks at images; changes nothing, but for `isMarked`. */
export async function planCopies(facts: PlanFacts, wishes: CopyWishes): Promise<CopyPlan> {
	const {repository, vm, disks, qemu, nodes} = facts;
	const now = new Date();
	const qemuProcess = await identify(qemu);
	const listed = await listPoints(repository, vm.name);
	const isCounted = ({id}: {readonly id: string}): boolean => wishes.since === undefined || id === wishes.since;
	const points = listed.flatMap(point => (point.state === 'readable' && isCounted(point) ? [point] : []));
	const unreadable = listed.at(-1)?.state === 'damaged' ? [listed.at(-1)] : [];
	const images = new Map<DiskWithMedium, readonly SourceImage[] | null>();
	for (const disk of disks) images.set(disk, await sourceImages(disk, qemu?.cwd));
	const files = [...images.values()].flatMap(list => (list ?? []).slice(0, 1).map(({filename}) => filename));
	const writers = qemu ? await writersOf(files, [qemu.pid, process.pid]) : new Map<string, never>();
	const layoutOf = await layoutChooser(facts, wishes);
	const copies = await Promise.all(
		disks.map(async (disk): Promise<DiskCopy> => {
			const made = images.get(disk) ?? null;
			const writer = writers.get(made?.[0]?.filename ?? '');
			const persistence = canPersist(disk, nodes, made) ? 'persistent' : 'transient';
			const today: DiskToday = {
				...{disk, images: made, power: vm.power, qemuProcess, now},
				writer: writer && `process ${writer.pid} (${writer.name})`,
			};
			const earlier = facts.exposed ? asEarlier(facts.exposed, disk) : await earlierCopies(repository, points, disk);
			const found = await decide(facts, today, earlier, wishes);
			const decided = wishes.since === undefined ? shorten(found, layoutOf) : found;
			return {
				...{disk, kind: decided.kind, reason: decided.reason, images: made},
				...(decided.kind === 'full'
					? {layout: 'alone'}
					: {layout: layoutOf(decided), parent: parentOf(decided, disk, made)}),
				granularity:
					neverIncremental(today) === undefined && (vm.power === 'on' || persistence === 'persistent')
						? (wishes.granularity ?? granularityFor(disk.medium.virtualSize))
						: undefined,
				persistence,
			};
		}),
	);
	const warnings = unreadable.map(
		point => `the newest point, ${point?.id ?? ''}, cannot be read: nothing is based on it`,
	);
	return {copies, warnings, qemuProcess};
}

/** Bitmaps that would be gone by are looked at closely: one that has lost bits is as good as none. */
async function decide(
	{isMarked}: PlanFacts,
	today: DiskToday,
	earlier: readonly EarlierCopy[],
	wishes: KindWishes,
): Promise<CopyDecision> {
	const lossy = new Set<string>();
	for (;;) {
		const decided = decideCopy({...today, lossy}, earlier, wishes);
		const bitmap = decided.kind === 'full' ? null : decided.parent.disk.bitmap;
		if (!bitmap?.marked || !isMarked || (await isMarked(today.disk, bitmap))) return decided;
		lossy.add(bitmap.name);
	}
}

/** Every reader opens all images of a chain, and nobody should meet his limit of open files. */
function shorten(decided: CopyDecision, layoutOf: (decided: Increment) => DiskLayout): CopyDecision {
	if (decided.kind === 'full' || layoutOf(decided) !== 'chain') return decided;
	const {images = 1} = decided.parent;
	return images < MAX_IMAGES ? decided : {kind: 'full', reason: `its chain has ${images} images, which is enough`};
}

interface BitmapOwner {
	readonly vm: Pick<Session, 'name' | 'uuid'>;
	readonly repository: Pick<Repository, 'id'>;
}

/** The name of the bitmap that belongs to a point's disk. */
export function bitmapFor(task: BitmapOwner, disk: string, point: string, run: string): string {
	return bitmapName(tagFor(task, disk), point, run);
}

export function tagFor({vm, repository}: BitmapOwner, disk: string): string {
	return bitmapTag(repository.id, vm.uuid ?? vm.name, disk);
}

/** The VM's QEMU, as a later point can tell it from another; null where it cannot be told. */
export async function identify(qemu: HostProcess | undefined): Promise<QemuProcess | null> {
	if (!qemu) return null;
	const {startTicks} = qemu;
	return {bootId: await bootId(), startTicks, startedAt: (await processStartedAt(startTicks)).toISOString()};
}

type Increment = Exclude<CopyDecision, {kind: 'full'}>;

function parentOf(
	{parent: {point, disk}}: Increment,
	{medium}: DiskWithMedium,
	images: readonly SourceImage[] | null,
): NonNullable<DiskCopy['parent']> {
	const found = medium.bitmaps.find(({name}) => name === disk.bitmap?.name);
	// Decided on because it is there.
	if (!found) throw new Error(`the bitmap of ${disk.name} has gone`);
	const {name, granularity, dirtyBytes: bytes} = found;
	const beneath = medium.chain.slice(1, 1 + overlaysSince(disk.source, images)).map(node => node.name);
	return {point, disk, changes: {name, granularity}, beneath, bytes};
}

/** Nobody looks at what was read elsewhere. */
function asEarlier({name: point, cutAt, qemu, disks}: ExposedBase, {name}: DiskWithMedium): readonly EarlierCopy[] {
	return disks
		.filter(disk => disk.name === name)
		.map(disk => ({
			point,
			qemuProcess: qemu.process,
			fullAt: new Date(cutAt),
			disk: {
				...disk,
				...{file: '', storedBytes: 0, addedBytes: 0, sha256: null, hashes: null},
				...{kind: 'full', reason: null, parent: null, chain: point, layout: 'alone', backing: null},
			},
		}));
}

async function earlierCopies(
	repository: Repository,
	points: readonly Point[],
	{name: disk, medium}: DiskWithMedium,
): Promise<readonly EarlierCopy[]> {
	const copies = points.toReversed().flatMap(point => {
		const stored = point.manifest.disks.find(({name}) => name === disk);
		return stored ? [{point, stored}] : [];
	});
	// Only these can be chosen, and the newest is to be told of.
	const isCandidate = ({bitmap}: StoredDisk): boolean => medium.bitmaps.some(({name}) => name === bitmap?.name);
	return Promise.all(
		copies.map(async ({point, stored}, index) => ({
			point: point.id,
			disk: stored,
			qemuProcess: point.manifest.qemu.process,
			fullAt: timeOfPointId(stored.chain),
			...(index === 0 || isCandidate(stored) ? await lookAtChain(repository, point, stored) : {}),
		})),
	);
}

async function lookAtChain(
	repository: Repository,
	point: Point,
	disk: StoredDisk,
): Promise<Pick<EarlierCopy, 'problem' | 'images' | 'state'>> {
	try {
		const chain = await readDiskChain(repository, point, disk);
		const state = chain.unsettled.includes(point.id) ? 'unsettled' : 'settled';
		return {problem: await problemOf(chain), images: chain.links.length, state};
	} catch (error) {
		if (error instanceof QuiesceError && error.code === 'DAMAGED') return {problem: error.message};
		throw error;
	}
}

/** A clone needs its parent's file, what that lies on, and what its content is known by. */
async function layoutChooser(
	{repository, vm, sink}: PlanFacts,
	{layout}: CopyWishes,
): Promise<(decided: Increment) => DiskLayout> {
	const folder = vmFolder(repository.path, vm.name);
	const isThere = await fs.access(folder, constants.W_OK).then(
		() => true,
		() => false,
	);
	const whyNot = layout === 'chain' || !isThere ? 'it was not asked for' : await whyNoClones(folder, sink);
	if (layout === 'clone' && isThere && whyNot !== undefined) {
		throw new QuiesceError('REFUSED', `points cannot be clones here: ${whyNot}`, {
			hint: 'Leave out --layout, or use --layout chain.',
		});
	}
	return ({parent: {disk, state}}) =>
		whyNot === undefined && disk.hashes !== null && state !== 'unsettled' ? 'clone' : 'chain';
}

async function whyNoClones(folder: string, sink: SinkName): Promise<string | undefined> {
	if (sink !== 'daemon') return `with the sink ${sink} nobody can tell what was written to a clone`;
	return (await canClone(folder)) ? undefined : 'the file system of the repository cannot share the data of two files';
}
