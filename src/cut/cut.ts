import type {NamedJob} from '../jobs/run-jobs.ts';
import type {QmpConnection} from '../qmp/connection.ts';

/** A disk to be cut, and the node that takes its copy. */
export interface CutDisk {
	readonly name: string;
	/** The guest-visible format node: found before anything starts, since a running job hides it. */
	readonly node: string;
	readonly target: string;
}

export interface CutContext {
	readonly qmp: QmpConnection;
	readonly run: string;
	readonly disks: readonly CutDisk[];
	readonly compress: boolean;
	/** For each job; undefined is no limit. */
	readonly speedBytesPerSecond?: number | undefined;
}

/** One way to capture all disks at one instant and to copy them from there. */
export interface Cut {
	/** The jobs that copy: as `runJobs` wants them. They exist once `take` has returned. */
	readonly jobs: readonly NamedJob[];
	/** The instant. Called while the guest may be frozen, so it does nothing that can be done before or after. */
	take(): Promise<void>;
	/** After the instant, with the guest running: lets the copy go on at its speed. */
	copy(): Promise<void>;
}

export type CutMethod = 'push';

/** Makes everything ready for {@link Cut.take}. What it leaves in QEMU bears the run's name. */
export type PrepareCut = (context: CutContext) => Promise<Cut>;
