import type {CutMethod} from '../../cut/cut.ts';
import type {Consistency} from '../../repository/manifest.ts';
import type {CutRecord, DiskProgress} from '../backup-messages.ts';
import type {CopyRequest} from '../copy-task.ts';
import type {DiskSelection} from '../select-disks.ts';
import type {AnyVmRequest} from '../with-vm.ts';
import type {ArchiveTarget} from './archive-output.ts';

/** What any archive is made by. */
export interface ArchiveWishes {
	readonly target: ArchiveTarget;
	readonly compression: 'none' | 'zstd';
	/** The text of a `qemu-server.conf`, in place of one that is made of what is known. */
	readonly config?: string | undefined;
}

export interface ExportVmRequest extends CopyRequest, AnyVmRequest, DiskSelection, ArchiveWishes {
	readonly method?: 'fleece' | 'push' | undefined;
	/** Where `fleece` keeps old data while it copies, instead of beside each disk's image. Local. */
	readonly scratch?: string | undefined;
	/** Plan, and stop there. */
	readonly dryRun?: boolean | undefined;
}

/** A disk, and what it is called in the archive. */
export interface ExportedDisk {
	readonly name: string;
	readonly device: string;
	readonly sizeBytes: number;
}

export interface ExportedArchive {
	readonly vm: string;
	/** Null where it was streamed. */
	readonly file: string | null;
	/** Null where there is none. */
	readonly index: string | null;
	/** Before compression. */
	readonly archiveBytes: number;
	readonly disks: readonly ExportedDisk[];
	readonly cutAt: string;
	readonly consistency: Consistency;
	readonly warnings: readonly string[];
}

export type ExportMessage =
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'warning'; readonly text: string}
	| {
			readonly kind: 'planned';
			readonly vm: string;
			readonly disks: readonly ExportedDisk[];
			readonly skipped: readonly {readonly name: string; readonly reason: string}[];
			/** Null of a point, which is not cut any more. */
			readonly method: CutMethod | null;
			readonly quiesce: boolean;
			readonly compression: 'none' | 'zstd';
	  }
	/** How much of a point's files has been read to check them; nothing is written yet. */
	| {readonly kind: 'checking'; readonly bytesRead: number; readonly bytesTotal: number}
	/** The archive's instant has passed, and the guest goes on. */
	| ({readonly kind: 'cut'} & CutRecord)
	| {readonly kind: 'progress'; readonly disks: readonly DiskProgress[]}
	/** All is copied; the files are being closed and made durable. */
	| {readonly kind: 'settling'}
	| ({readonly kind: 'finished'} & ExportedArchive);
