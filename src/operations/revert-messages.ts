import type {SocketAddress} from '../config/address.ts';
import type {SnapshotManifest} from '../snapshots/manifest.ts';
import type {VmRequest} from './with-vm.ts';

/** To an external snapshot, of a VM that does not run. */
export interface RevertRequest extends Omit<VmRequest, 'sockets'> {
	readonly snapshot: {readonly folder: string; readonly name: string};
	/** Start the VM too. Else it is only said how, and a memory is given to the VM once it has been started so. */
	readonly start: boolean;
	/** The monitor of the new VM, where its command line does not tell. */
	readonly monitor?: SocketAddress | undefined;
	/** How long to wait until the VM is started. */
	readonly waitMs: number;
	/** The new overlays' files: see `SnapshotRequest`. */
	readonly overlayTemplate?: string | undefined;
}

export interface RevertedDisk {
	readonly name: string;
	/** Holds the disk as it was at the snapshot, and is not written to. */
	readonly base: string;
	/** Takes what the guest writes from now on. */
	readonly overlay: string;
}

export type RevertMessage =
	| {readonly kind: 'warning'; readonly text: string}
	/** The overlays are there. */
	| {
			readonly kind: 'prepared';
			readonly vm: string;
			readonly disks: readonly RevertedDisk[];
			/** What starts the VM: to be run by the operator, unless `starts`. */
			readonly argv: readonly string[];
			readonly notes: readonly string[];
			readonly starts: boolean;
			/** Whether the VM waits for its memory when it is started, and is given it. */
			readonly memory: boolean;
	  }
	| {readonly kind: 'progress'; readonly doneBytes: number; readonly totalBytes: number}
	| {
			readonly kind: 'finished';
			readonly snapshot: SnapshotManifest;
			readonly disks: readonly RevertedDisk[];
			/** QEMU's word for what the VM does; null where it was not started yet. */
			readonly status: string | null;
	  };
