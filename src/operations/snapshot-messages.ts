import type {MemoryMode, MemoryProgress} from '../migration/save-memory.ts';
import type {QuiesceRequest} from './with-quiescer.ts';
import type {AnyVmRequest} from './with-vm.ts';
import type {CutRecord} from './backup-messages.ts';
import type {GroupMember} from './group.ts';
import type {DiskSelection} from './select-disks.ts';
import type {SnapshotManifest} from '../snapshots/manifest.ts';

export interface SnapshotRequest extends QuiesceRequest, DiskSelection {
	/** Into new images over those that there are, which is the default, or in the images themselves. */
	readonly kind?: SnapshotManifest['kind'] | undefined;
	/** Undefined for the time. */
	readonly snapshot?: string | undefined;
	/** Where it is told of, instead of beside the image of the first disk. */
	readonly folder?: string | undefined;
	/** The overlays' files, with `{stem}`, `{name}`, `{disk}` and `{vm}`; relative to the folder of each disk's image. */
	readonly overlayTemplate?: string | undefined;
	/** The state of RAM and devices too, at the same instant, and how it is saved. The guest is not frozen then. */
	readonly memory?: MemoryMode | undefined;
	/** With `memory: 'live'`: how long the guest may go on, at the most, before it is paused for the rest. */
	readonly liveMs?: number | undefined;
	/** What keeps it in step with the other VMs of its group. Anything that fails then takes it back. */
	readonly member?: GroupMember | undefined;
	/** Plan, and stop there. */
	readonly dryRun?: boolean;
}

/** The same of a VM that may be off. */
export type AnySnapshotRequest = Omit<SnapshotRequest, 'sockets'> & Pick<AnyVmRequest, 'sockets'>;

export interface PlannedOverlay {
	readonly name: string;
	readonly sizeBytes: number;
	readonly base: string;
	/** Null for an internal one. */
	readonly overlay: string | null;
}

export type SnapshotMessage =
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'warning'; readonly text: string}
	| {
			readonly kind: 'planned';
			readonly vm: string;
			readonly snapshot: string;
			readonly disks: readonly PlannedOverlay[];
			readonly skipped: readonly {readonly name: string; readonly reason: string}[];
			readonly quiesce: boolean;
	  }
	/** Of the memory. */
	| ({readonly kind: 'progress'} & MemoryProgress)
	/** The guest writes to the overlays. */
	| ({readonly kind: 'cut'} & CutRecord)
	| {readonly kind: 'finished'; readonly manifest: SnapshotManifest; readonly folder: string};
