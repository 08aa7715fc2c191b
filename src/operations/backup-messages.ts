import type {CutMethod} from '../cut/cut.ts';
import type {Consistency, DiskLayout, FreezeRecord, PointKind, PointManifest} from '../repository/manifest.ts';
import type {SinkName} from '../sink/sink.ts';
import type {CopyRequest} from './copy-task.ts';
import type {GroupMember} from './group.ts';
import type {CopyWishes} from './plan-copies.ts';
import type {RunHooks} from './run-hooks.ts';
import type {Session} from './vm-session.ts';
import type {AnyVmRequest} from './with-vm.ts';

export interface BackupRequest extends CopyRequest, AnyVmRequest, CopyWishes {
	/** The repository's folder, which must exist; an empty one becomes a repository. */
	readonly repository: string;
	/** How the point is cut and read; undefined for the best that the VM can. */
	readonly method?: CutMethod | undefined;
	/** Where `fleece` keeps old data while it copies, instead of beside each disk's image. Local. */
	readonly scratch?: string | undefined;
	/** What copies an image for `overlay`, with `{source}` and `{target}` in its words. */
	readonly copyCommand?: readonly string[] | undefined;
	/** `none`, for `overlay` where all images share their data with the repository: nothing is read. */
	readonly hashes?: 'all' | 'none' | undefined;
	readonly sink: SinkName;
	readonly compression: 'none' | 'zstd';
	/** What keeps it in step with the other VMs of a group. */
	readonly member?: GroupMember | undefined;
	/** What is done on the host at the moments of the run, from `pre-freeze` to `copied`. */
	readonly hooks?: RunHooks | undefined;
	/** Plan, and stop there. */
	readonly dryRun?: boolean;
}

export interface BackupPlan {
	readonly vm: string;
	readonly run: string;
	readonly disks: readonly PlannedDisk[];
	readonly skipped: readonly {readonly name: string; readonly reason: string}[];
	/** Of the VM. */
	readonly power: Session['power'];
	/** Whether the guest will be frozen. */
	readonly quiesce: boolean;
	readonly method: CutMethod;
	/** Who writes the copy; of `overlay`, how it is made. */
	readonly sink: string;
	readonly compression: 'none' | 'zstd';
}

export interface PlannedDisk {
	readonly name: string;
	readonly sizeBytes: number;
	readonly format: string;
	readonly kind: PointKind;
	/** Why it is of this kind, or not based on the newest point; null where it is as it should be. */
	readonly reason: string | null;
	/** The point that an increment is based on. */
	readonly parent: string | null;
	/** What has changed since, as far as is known before the cut; null for a full. */
	readonly changedBytes: number | null;
	readonly layout: DiskLayout;
}

export interface DiskProgress {
	readonly disk: string;
	readonly doneBytes: number;
	readonly totalBytes: number;
}

export type BackupMessage =
	/** A leftover of an earlier run was undone. */
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'warning'; readonly text: string}
	| {readonly kind: 'planned'; readonly plan: BackupPlan}
	/** The point's instant has passed, and the guest goes on. */
	| ({readonly kind: 'cut'} & CutRecord)
	| {readonly kind: 'progress'; readonly disks: readonly DiskProgress[]}
	/** All is copied; files are being closed, checked and made durable. */
	| {readonly kind: 'settling'}
	| {readonly kind: 'finished'; readonly manifest: PointManifest; readonly folder: string};

/** What is known of the instant that a point captures. */
export interface CutRecord {
	/** RFC 3339. */
	readonly at: string;
	readonly consistency: Consistency;
	readonly freeze: FreezeRecord | null;
	readonly standstill: PointManifest['standstill'];
	readonly group: PointManifest['group'];
	/** Why it is not as good as was asked for. */
	readonly degraded?: string;
}
