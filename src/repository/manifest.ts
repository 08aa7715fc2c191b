import * as v from 'valibot';
import {parseDocument} from './document.ts';
import {isImageFileName, PLAIN_NAME} from './layout.ts';
import {isPointId} from './point-id.ts';

export const MANIFEST_FORMAT = 1;

export type PointKind = 'full' | 'incremental' | 'differential';
const KINDS: readonly PointKind[] = ['incremental', 'differential', 'full'];
export type Consistency = 'quiesced' | 'crash-consistent' | 'offline';

/** What a freeze was worth. */
export interface FreezeRecord {
	readonly fileSystems: number;
	/** From the request to the agent's answer. */
	readonly freezeSeconds: number;
	/** From that answer to our request to thaw. */
	readonly heldSeconds: number;
	readonly thawSeconds: number;
}

export interface StoredDisk {
	readonly name: string;
	/** In the point's folder; a qcow2 image. */
	readonly file: string;
	/** What the guest sees. */
	readonly sizeBytes: number;
	/** The length of the file. */
	readonly storedBytes: number;
	/** What the point has cost: of a clone what was written to it, else the length of the file. */
	readonly addedBytes: number;
	/** Of the disk that was backed up, as QEMU names it. */
	readonly format: string;
	readonly deviceType: string | null;
	/** Of the file, in hexadecimal. Null for a clone, which shares most of its file with others: {@link hashes} know it. */
	readonly sha256: string | null;
	readonly kind: PointKind;
	/** Why it is of this kind where another could have been expected: one sentence, to follow `because`. */
	readonly reason: string | null;
	/** The point since whose cut the copied clusters had changed; null for a full. It may be gone by now. */
	readonly parent: string | null;
	/** The point whose full copy this one goes back to; its own id for a full. That point may be gone by now. */
	readonly chain: string;
	/**
	 * `alone`: all that the disk held is in the file. `chain`: what had changed, over the image of `backing`. `clone`: the
	 * parent's file, shared with it by the file system, with what had changed written in.
	 */
	readonly layout: DiskLayout;
	/** The point whose image of this disk lies beneath the file; null if none does. */
	readonly backing: string | null;
	/** The file that has the hashes of the clusters which the image stores; null in points of earlier versions, and where nobody read them. */
	readonly hashes: string | null;
	/** What has recorded the disk's changes since the cut; null where nothing did. */
	readonly bitmap: StoredBitmap | null;
	/** The images that the disk was made of at the cut; null where they could not be told. */
	readonly source: readonly SourceImage[] | null;
}

export type DiskLayout = 'alone' | 'chain' | 'clone';

/** Whether nothing tells what the image should hold, as its data was only shared. Nothing else is based on such a one. */
export function isUnproved({sha256, hashes}: Pick<StoredDisk, 'sha256' | 'hashes'>): boolean {
	return sha256 === null && hashes === null;
}

export interface StoredBitmap {
	/** In QEMU, on the disk's format node. */
	readonly name: string;
	/** Bytes for one bit. */
	readonly granularity: number;
	/** Whether its last bit was set when it began, so that one which has lost it is known to have lost bits. */
	readonly marked: boolean;
}

/** An image file of a disk, by which another in its place is noticed. The guest's own comes first, then what it is based on. */
export interface SourceImage {
	readonly filename: string;
	readonly format: string;
	/** Null where the file is not on this host. */
	readonly inode: number | null;
	/** Of images that nothing should write to: length and time of the last change. Null for the guest's own. */
	readonly unchanged: {readonly bytes: number; readonly modifiedAt: string} | null;
}

/** A process as nothing else on any host is called: two of them are the same only if the first two members are. */
export interface QemuProcess {
	/** Of the host, since its boot. */
	readonly bootId: string;
	/** In clock ticks since then. */
	readonly startTicks: number;
	/** To about a second. */
	readonly startedAt: string;
}

/** The points of several VMs that were cut in one go, of which this is one. */
export interface GroupRecord {
	readonly name: string;
	/** From when the first VM was told to cut until the last one had answered. */
	readonly skewSeconds: number;
	readonly members: readonly GroupedPoint[];
}

export interface GroupedPoint {
	readonly vm: string;
	/** Its id. It may be gone by now. */
	readonly point: string;
	readonly consistency: Consistency;
	/** When it was told to cut, and had answered: since the first VM was told. */
	readonly cutBeganSeconds: number;
	readonly cutEndedSeconds: number;
}

/** point.json: all that is known of a point. Members that this version does not know are kept. */
export interface PointManifest {
	readonly format: typeof MANIFEST_FORMAT;
	readonly id: string;
	readonly vm: string;
	readonly uuid: string | null;
	/** `full` if every disk's is; else `incremental` if any disk's is; else `differential`. */
	readonly kind: PointKind;
	readonly run: string;
	/** RFC 3339, UTC, with milliseconds; so is every time. */
	readonly cutAt: string;
	readonly finishedAt: string;
	readonly consistency: Consistency;
	readonly freeze: FreezeRecord | null;
	/** For how long the guest's disks, or the whole VM, stood still at the cut; null where it was not measured. */
	readonly standstill: {readonly of: 'disks' | 'vm'; readonly seconds: number} | null;
	/** Null for one that was taken alone. */
	readonly group: GroupRecord | null;
	readonly qemu: {
		readonly version: string;
		readonly package: string;
		/** Which process it was; null where it could not be told. */
		readonly process: QemuProcess | null;
	};
	readonly tool: {readonly version: string};
	/** How the point was cut and read: `fleece`, `push`, `overlay`. */
	readonly method: string;
	/** Where the job wrote: `daemon`, `inline`, `archive`. */
	readonly sink: string;
	readonly compression: 'none' | 'zstd';
	readonly disks: readonly StoredDisk[];
	/** Disks of the VM that the point leaves out. */
	readonly skipped: readonly {readonly name: string; readonly reason: string}[];
	readonly warnings: readonly string[];
}

export const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
export const seconds = v.pipe(v.number(), v.minValue(0));
const pointId = v.pipe(v.string(), v.check(isPointId, 'not the id of a point'));
export const time = v.pipe(v.string(), v.regex(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/, 'not a time in UTC'));

const kind = v.picklist(['full', 'incremental', 'differential']);
const plainName = v.pipe(v.string(), v.regex(PLAIN_NAME, 'not a plain name'));

export const consistency = v.picklist(['quiesced', 'crash-consistent', 'offline']);

const group = v.looseObject({
	name: v.pipe(v.string(), v.nonEmpty()),
	skewSeconds: seconds,
	members: v.array(
		v.looseObject({
			vm: v.pipe(v.string(), v.nonEmpty()),
			point: plainName,
			consistency,
			cutBeganSeconds: seconds,
			cutEndedSeconds: seconds,
		}),
	),
});

/** What a cut was like, wherever a document tells of one. */
export const cutMembers = {
	cutAt: time,
	consistency,
	freeze: v.nullable(
		v.looseObject({fileSystems: bytes, freezeSeconds: seconds, heldSeconds: seconds, thawSeconds: seconds}),
	),
	standstill: v.optional(v.nullable(v.looseObject({of: v.picklist(['disks', 'vm']), seconds})), null),
	group: v.optional(v.nullable(group), null),
};

/** Which QEMU and which version of this program wrote a document. */
export const writerMembers = {
	qemu: v.looseObject({
		version: v.string(),
		package: v.string(),
		process: v.optional(v.nullable(v.looseObject({bootId: v.string(), startTicks: v.number(), startedAt: time})), null),
	}),
	tool: v.looseObject({version: v.string()}),
};

/** What a bitmap of a disk is to be known by later. */
export const recordedMembers = {
	bitmap: v.optional(v.nullable(v.looseObject({name: v.string(), granularity: bytes, marked: v.boolean()})), null),
	source: v.optional(
		v.nullable(
			v.array(
				v.looseObject({
					filename: v.string(),
					format: v.string(),
					inode: v.nullable(bytes),
					unchanged: v.nullable(v.looseObject({bytes, modifiedAt: time})),
				}),
			),
		),
		null,
	),
};

/** Points of earlier versions lack them: each of their disks is a full that stands alone. */
const laterMembers = {
	addedBytes: v.optional(bytes),
	kind: v.optional(kind, 'full'),
	reason: v.optional(v.nullable(v.string()), null),
	parent: v.optional(v.nullable(pointId), null),
	chain: v.optional(pointId),
	layout: v.optional(v.picklist(['alone', 'chain', 'clone']), 'alone'),
	backing: v.optional(v.nullable(pointId), null),
	hashes: v.optional(v.nullable(plainName), null),
	...recordedMembers,
};

const disk = v.looseObject({
	name: v.pipe(v.string(), v.nonEmpty()),
	file: v.pipe(v.string(), v.check(isImageFileName, 'not the plain name of a qcow2 file')),
	sizeBytes: bytes,
	storedBytes: bytes,
	format: v.string(),
	deviceType: v.nullable(v.string()),
	sha256: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'not a SHA-256'))),
	...laterMembers,
});

const manifest = v.pipe(
	v.looseObject({
		format: v.literal(MANIFEST_FORMAT),
		id: pointId,
		vm: v.pipe(v.string(), v.nonEmpty()),
		uuid: v.nullable(v.string()),
		kind,
		run: v.string(),
		...cutMembers,
		finishedAt: time,
		...writerMembers,
		method: v.string(),
		sink: v.string(),
		compression: v.picklist(['none', 'zstd']),
		disks: v.array(disk),
		skipped: v.array(v.looseObject({name: v.string(), reason: v.string()})),
		warnings: v.array(v.string()),
	}),
	v.check(({disks}) => new Set(disks.map(({name}) => name)).size === disks.length, 'two disks have the same name'),
	v.check(
		({disks}) => areUnlike(disks.flatMap(({file, hashes}) => [file, hashes ?? '']).filter(name => name !== '')),
		'two disks have the same file',
	),
	v.check(({disks}) => disks.every(hasParentUnlessFull), 'a full has no parent, and nothing else lacks one'),
	v.check(
		({disks}) => disks.every(hasBackingInChain),
		'an image of a chain lacks what is beneath it, or another has that',
	),
	v.check(
		({id, disks}) => disks.every(({backing, parent}) => backing !== id && parent !== id),
		'a point is its own parent',
	),
	v.check(({disks}) => disks.every(disk => !isUnproved(disk) || isSharedWhole(disk)), 'a disk has no checksum'),
);

const schema: v.GenericSchema<unknown, PointManifest> = v.pipe(
	manifest,
	v.transform(({disks, ...point}) => ({
		...point,
		disks: disks.map(disk => ({
			...disk,
			chain: disk.chain ?? point.id,
			addedBytes: disk.addedBytes ?? disk.storedBytes,
		})),
	})),
	v.check(({kind, disks}) => kind === kindOf(disks), 'its kind is not that of its disks'),
);

/** What a point with these disks is called. */
export function kindOf(disks: readonly Pick<StoredDisk, 'kind'>[]): PointKind {
	const kinds = disks.map(({kind}) => kind);
	return KINDS.find(candidate => kinds.includes(candidate)) ?? 'full';
}

/** Throws `DAMAGED`; `what` names the document in the message. File names in the result are safe to join to a folder. */
export function parseManifest(text: string, what: string): PointManifest {
	return parseDocument(schema, MANIFEST_FORMAT, text, what);
}

function hasParentUnlessFull({kind, parent}: Pick<StoredDisk, 'kind' | 'parent'>): boolean {
	return (kind === 'full') === (parent === null);
}

/** A clone has what its parent had. */
function hasBackingInChain({layout, backing}: Pick<StoredDisk, 'layout' | 'backing'>): boolean {
	return layout === 'clone' || (layout === 'chain') === (backing !== null);
}

/** A copy of the VM's own image that shares its data, which need not be read for it. */
function isSharedWhole({layout, parent}: Pick<StoredDisk, 'layout' | 'parent'>): boolean {
	return layout === 'clone' && parent === null;
}

/** In small letters too: not every file system tells them apart. */
function areUnlike(names: readonly string[]): boolean {
	return new Set(names.map(name => name.toLowerCase())).size === names.length;
}
