import * as v from 'valibot';
import {parseDocument} from './document.ts';
import {isImageFileName} from './layout.ts';
import {isPointId} from './point-id.ts';

export const MANIFEST_FORMAT = 1;

export type PointKind = 'full' | 'incremental' | 'differential';
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
	/** Of the disk that was backed up, as QEMU names it. */
	readonly format: string;
	readonly deviceType: string | null;
	/** Of the file, in hexadecimal. */
	readonly sha256: string;
}

/** point.json: all that is known of a point. Members that this version does not know are kept. */
export interface PointManifest {
	readonly format: typeof MANIFEST_FORMAT;
	readonly id: string;
	readonly vm: string;
	readonly uuid: string | null;
	readonly kind: PointKind;
	/** The point whose images this one's are backed by; null for a full. */
	readonly parent: string | null;
	/** The id of the full that this point goes back to; its own for a full. */
	readonly chain: string;
	readonly run: string;
	/** RFC 3339, UTC, with milliseconds; so is every time. */
	readonly cutAt: string;
	readonly finishedAt: string;
	readonly consistency: Consistency;
	readonly freeze: FreezeRecord | null;
	/** For how long the guest's disks, or the whole VM, stood still at the cut; null where it was not measured. */
	readonly standstill: {readonly of: 'disks' | 'vm'; readonly seconds: number} | null;
	readonly qemu: {readonly version: string; readonly package: string};
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

const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const seconds = v.pipe(v.number(), v.minValue(0));
const pointId = v.pipe(v.string(), v.check(isPointId, 'not the id of a point'));
const time = v.pipe(v.string(), v.regex(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/, 'not a time in UTC'));

const disk = v.looseObject({
	name: v.pipe(v.string(), v.nonEmpty()),
	file: v.pipe(v.string(), v.check(isImageFileName, 'not the plain name of a qcow2 file')),
	sizeBytes: bytes,
	storedBytes: bytes,
	format: v.string(),
	deviceType: v.nullable(v.string()),
	sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'not a SHA-256')),
});

const schema: v.GenericSchema<unknown, PointManifest> = v.pipe(
	v.looseObject({
		format: v.literal(MANIFEST_FORMAT),
		id: pointId,
		vm: v.pipe(v.string(), v.nonEmpty()),
		uuid: v.nullable(v.string()),
		kind: v.picklist(['full', 'incremental', 'differential']),
		parent: v.nullable(pointId),
		chain: pointId,
		run: v.string(),
		cutAt: time,
		finishedAt: time,
		consistency: v.picklist(['quiesced', 'crash-consistent', 'offline']),
		freeze: v.nullable(
			v.looseObject({fileSystems: bytes, freezeSeconds: seconds, heldSeconds: seconds, thawSeconds: seconds}),
		),
		standstill: v.optional(v.nullable(v.looseObject({of: v.picklist(['disks', 'vm']), seconds})), null),
		qemu: v.looseObject({version: v.string(), package: v.string()}),
		tool: v.looseObject({version: v.string()}),
		method: v.string(),
		sink: v.string(),
		compression: v.picklist(['none', 'zstd']),
		disks: v.array(disk),
		skipped: v.array(v.looseObject({name: v.string(), reason: v.string()})),
		warnings: v.array(v.string()),
	}),
	v.check(
		({kind, parent}) => (kind === 'full') === (parent === null),
		'a full has no parent, and nothing else lacks one',
	),
	v.check(({kind, id, chain}) => kind !== 'full' || chain === id, 'a full begins its own chain'),
	v.check(({disks}) => areUnlike(disks.map(({name}) => name)), 'two disks have the same name'),
	v.check(({disks}) => areUnlike(disks.map(({file}) => file.toLowerCase())), 'two disks have the same file'),
);

/** Throws `DAMAGED`; `what` names the document in the message. File names in the result are safe to join to a folder. */
export function parseManifest(text: string, what: string): PointManifest {
	return parseDocument(schema, MANIFEST_FORMAT, text, what);
}

function areUnlike(names: readonly string[]): boolean {
	return new Set(names).size === names.length;
}
