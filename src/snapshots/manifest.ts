import * as v from 'valibot';
import {parseDocument} from '../repository/document.ts';
import {PLAIN_NAME} from '../repository/layout.ts';
import {
	bytes,
	type Consistency,
	consistency,
	cutMembers,
	type PointManifest,
	seconds,
	time,
	writerMembers,
} from '../repository/manifest.ts';
import {isSnapshotName} from './layout.ts';

export const SNAPSHOT_FORMAT = 1;

/** An image file, by which another one of its name is noticed. */
export interface ImageFile {
	/** Absolute. */
	readonly file: string;
	readonly format: string;
	/** Null until it is made, or where it cannot be told. */
	readonly inode: number | null;
}

export interface SnapshotDisk {
	readonly name: string;
	/** What the guest sees. */
	readonly sizeBytes: number;
	readonly deviceType: string | null;
	/** What holds the disk as it was at the cut. */
	readonly base: ImageFile;
	/** What the guest has written to since; null for an internal snapshot, which is in the base itself. */
	readonly overlay: (ImageFile & {readonly node: string}) | null;
	/** Something may have been merged into the base since, or a part of it: it shows the disk no more. */
	readonly spoiled?: boolean | undefined;
	/** When this program last wrote to the base's file since, in a way that leaves what it shows as it is. */
	readonly rewrittenAt?: string | undefined;
}

/** The state of RAM and devices at the same instant. */
export interface SnapshotMemory {
	/** In the snapshot's folder: QEMU's migration stream, compressed with zstd. */
	readonly file: string;
	readonly sha256: string;
	readonly storedBytes: number;
	/** Of the stream. */
	readonly plainSha256: string;
	readonly plainBytes: number;
	readonly mode: 'live' | 'stop' | 'background';
	/** Whether the VM ran, and so goes on when it is restored. */
	readonly running: boolean;
}

/** RAM and devices inside an image. */
export interface VmState {
	readonly disk: string;
	readonly bytes: number;
}

/** The snapshots of several VMs, all of one name, that were cut in one go. What nobody lived to see is null. */
export interface SnapshotGroup {
	readonly name: string;
	/** From when the first VM was told to cut until the last one had answered. */
	readonly skewSeconds: number | null;
	readonly members: readonly GroupedSnapshot[];
}

export interface GroupedSnapshot {
	readonly vm: string;
	/** Where it is told of. It may be gone by now, or never have come to be. */
	readonly folder: string;
	readonly consistency: Consistency | null;
	/** When it was told to cut, and had answered: since the first VM was told. */
	readonly cutBeganSeconds: number | null;
	readonly cutEndedSeconds: number | null;
}

/** snapshot.json: all that is known of a snapshot. Members that this version does not know are kept. */
export interface SnapshotManifest extends Pick<
	PointManifest,
	'vm' | 'uuid' | 'run' | 'cutAt' | 'finishedAt' | 'consistency' | 'freeze' | 'standstill' | 'qemu' | 'tool'
> {
	readonly format: typeof SNAPSHOT_FORMAT;
	readonly name: string;
	readonly kind: 'external' | 'internal';
	readonly disks: readonly SnapshotDisk[];
	/** Disks of the VM that it leaves out. */
	readonly skipped: readonly {readonly name: string; readonly reason: string}[];
	readonly memory: SnapshotMemory | null;
	/** The same of an internal one, which QEMU keeps in the image of this disk. */
	readonly vmState: VmState | null;
	/** Null for one that was taken alone. */
	readonly group: SnapshotGroup | null;
	readonly warnings: readonly string[];
}

const absolute = v.pipe(v.string(), v.startsWith('/'));
const image = {file: absolute, format: v.string(), inode: v.nullable(bytes)};
const snapshotName = v.pipe(v.string(), v.check(isSnapshotName, 'not the name of a snapshot'));

const group = v.looseObject({
	name: v.pipe(v.string(), v.nonEmpty()),
	skewSeconds: v.nullable(seconds),
	members: v.array(
		v.looseObject({
			vm: v.pipe(v.string(), v.nonEmpty()),
			folder: absolute,
			consistency: v.nullable(consistency),
			cutBeganSeconds: v.nullable(seconds),
			cutEndedSeconds: v.nullable(seconds),
		}),
	),
});

/** Of the document, and of what is known before the cut. */
export const planMembers = {
	name: snapshotName,
	vm: v.pipe(v.string(), v.nonEmpty()),
	uuid: v.nullable(v.string()),
	run: v.string(),
	kind: v.picklist(['external', 'internal']),
	...writerMembers,
	disks: v.array(
		v.looseObject({
			name: v.pipe(v.string(), v.nonEmpty()),
			sizeBytes: bytes,
			deviceType: v.nullable(v.string()),
			base: v.looseObject(image),
			overlay: v.nullable(v.looseObject({...image, node: v.string()})),
			spoiled: v.optional(v.boolean()),
			rewrittenAt: v.optional(time),
		}),
	),
	skipped: v.array(v.looseObject({name: v.string(), reason: v.string()})),
	group: v.optional(v.nullable(group), null),
	warnings: v.array(v.string()),
};

const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'not a SHA-256'));

const memory = v.looseObject({
	file: v.pipe(v.string(), v.regex(PLAIN_NAME, 'not a plain name')),
	sha256,
	storedBytes: bytes,
	plainSha256: sha256,
	plainBytes: bytes,
	mode: v.picklist(['live', 'stop', 'background']),
	running: v.boolean(),
});

const schema: v.GenericSchema<unknown, SnapshotManifest> = v.pipe(
	v.looseObject({
		format: v.literal(SNAPSHOT_FORMAT),
		...cutMembers,
		...planMembers,
		finishedAt: time,
		memory: v.nullable(memory),
		vmState: v.optional(v.nullable(v.looseObject({disk: v.string(), bytes})), null),
	}),
	v.check(
		({kind, disks}) => disks.every(({overlay}) => (kind === 'external') === (overlay !== null)),
		'an overlay is missing, or there is one too many',
	),
);

/** Throws `DAMAGED`; `what` names the document in the message. */
export function parseSnapshot(text: string, what: string): SnapshotManifest {
	return parseDocument(schema, SNAPSHOT_FORMAT, text, what);
}
