import type {HashRecord} from '../images/hash-records.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {Transcript} from '../qmp/transcript.ts';

/** One disk's copy: where it goes. */
export interface SinkDisk {
	/** The disk's name. */
	readonly name: string;
	/** The qcow2 file to be made; it must not exist. */
	readonly path: string;
	readonly sizeBytes: number;
	/** Takes what was written to the image, as hashes. */
	readonly keepHashes: KeepHashes;
	/** What the file begins as; undefined for an empty image that stands alone. */
	readonly base?: ImageBase | undefined;
}

/** The records are of what one image stores: all of it, or what was written to a clone. */
export type KeepHashes = (records: AsyncIterable<HashRecord>) => Promise<void>;

export type ImageBase =
	/** An empty image over another one, as the new one is to name it. */
	| {readonly kind: 'chain'; readonly backingFile: string}
	/** A copy of another image that shares its clusters. */
	| {readonly kind: 'clone'; readonly of: string};

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
	/** Who writes to it: a job of the VM's QEMU, or a client of ours, with {@link Sink.exportOf}. */
	readonly writer: 'qemu' | 'client';
	readonly transcript?: Transcript | undefined;
	/** Ends the hashing of what was written. */
	readonly signal?: AbortSignal | undefined;
}

/** Where a job of the VM's QEMU writes the copies to. One that is open is settled or abandoned by whoever opened it. */
export interface Sink {
	/** The node of the VM's QEMU that takes the copy of a disk. */
	nodeOf(disk: string): string;
	/** Where a client of ours writes the copy of a disk. Throws where that cannot be. */
	exportOf(disk: string): SinkExport;
	/** True if the job is to compress what it writes, because nothing behind it does. */
	readonly jobCompresses: boolean;
	/** Rejects when the sink breaks while it is in use. Never resolves. */
	readonly broken: Promise<never>;
	/**
	 * After the jobs: hands over the hashes of what was written, and closes everything. When it returns the files are whole
	 * and on disk, or it has thrown.
	 */
	settle(): Promise<void>;
	/**
	 * After a failure, and once no job writes any more: gives up what is outside of QEMU. The nodes inside have names of
	 * the run, and are removed with them.
	 */
	abandon(): Promise<void>;
}

/** An NBD export on a Unix socket that we alone can open. */
export interface SinkExport {
	readonly socket: string;
	readonly name: string;
}

export type SinkName = 'daemon' | 'inline';

export type OpenSink = (context: SinkContext) => Promise<Sink>;
