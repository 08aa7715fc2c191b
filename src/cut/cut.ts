import type {NamedJob} from '../jobs/named-job.ts';
import type {QmpConnection} from '../qmp/connection.ts';

/** A disk to be cut, and the node that takes its copy. */
export interface CutDisk {
	readonly name: string;
	/** The guest-visible format node: found before anything starts, since a running job hides it. */
	readonly node: string;
	readonly target: string;
	/** The bitmap on `node` that says what to copy, which it keeps; undefined for all of the disk. */
	readonly changes?: Bitmap | undefined;
	/** A bitmap to be added to `node` that records all writes after the cut, and maybe some before it. */
	readonly recording?: Bitmap | undefined;
}

export interface Bitmap {
	readonly name: string;
	/** Bytes for one bit. */
	readonly granularity: number;
}

export interface CutContext {
	readonly qmp: QmpConnection;
	readonly run: string;
	readonly compress: boolean;
	/** For each job; undefined is no limit. */
	readonly speedBytesPerSecond?: number | undefined;
}

/**
 * One way to capture all disks at one instant and to copy them from there, ready for {@link Cut.take}. What it has in
 * QEMU bears the run's name.
 */
export interface Cut {
	/** The jobs that copy: as `runJobs` wants them. They exist once `copy` has returned. */
	readonly jobs: readonly NamedJob[];
	/** Whether `take` pauses the VM, so that somebody has to resume it if this process dies. */
	readonly pauses: boolean;
	/** The instant. Called while the guest may be frozen, so it does nothing that can be done before or after. */
	take(): Promise<CutTaken>;
	/** After the instant, with the guest running: lets the copy go on at its speed. */
	copy(): Promise<void>;
	/** After the jobs have succeeded and are gone: removes what else the cut has put into QEMU, but not `recording`. */
	release(): Promise<void>;
}

/** What the instant was for the guest: for how long its disks, or the whole VM, stood still at the most. */
export interface CutTaken {
	readonly stood: 'disks' | 'vm';
	readonly ms: number;
}

export const CUT_METHODS = ['fleece', 'push', 'pull', 'overlay'] as const;
export type CutMethod = (typeof CUT_METHODS)[number];
