import type {QmpConnection} from '../qmp/connection.ts';
import type {Transcript} from '../qmp/transcript.ts';

/** One disk's copy: where it goes. */
export interface SinkDisk {
	/** The disk's name. */
	readonly name: string;
	/** The qcow2 file to be made; it must not exist. */
	readonly path: string;
	readonly sizeBytes: number;
}

export interface SinkContext {
	/** The VM's monitor. */
	readonly qmp: QmpConnection;
	readonly run: string;
	/** For sockets; exists, empty, the run's own. */
	readonly folder: string;
	readonly disks: readonly SinkDisk[];
	readonly compression: 'none' | 'zstd';
	/** The user that QEMU runs as, where it is known and another than ours. */
	readonly qemuUid?: number | undefined;
	readonly transcript?: Transcript | undefined;
}

/** Where a job of the VM's QEMU writes the copies to. One that is open is settled or abandoned by whoever opened it. */
export interface Sink {
	/** The node of the VM's QEMU that takes the copy of a disk. */
	nodeOf(disk: string): string;
	/** True if the job is to compress what it writes, because nothing behind it does. */
	readonly jobCompresses: boolean;
	/** Rejects when the sink breaks while it is in use. Never resolves. */
	readonly broken: Promise<never>;
	/** After the jobs: closes everything. When it returns the files are whole and on disk, or it has thrown. */
	settle(): Promise<void>;
	/**
	 * After a failure, and once no job writes any more: gives up what is outside of QEMU. The nodes inside have names of
	 * the run, and are removed with them.
	 */
	abandon(): Promise<void>;
}

export type SinkName = 'daemon' | 'inline';

export type OpenSink = (context: SinkContext) => Promise<Sink>;
