import type {NbdExport} from '../../nbd/export.ts';

/** What is served: disks that are only read, each as an export of ours, and all on a private socket. */
export interface ServedSource extends AsyncDisposable {
	readonly disks: readonly SourceDisk[];
	/** Rejects if what reads it ends. Never resolves. */
	readonly died: Promise<never>;
	/** The exports in the order of the disks. */
	readonly openExports: () => Promise<readonly NbdExport[]>;
	/** Where a storage daemon finds them. */
	readonly openSocket: () => Promise<string>;
}

export interface SourceDisk {
	readonly name: string;
	readonly sizeBytes: number;
	/** Its export on the private socket. */
	readonly exportName: string;
}
