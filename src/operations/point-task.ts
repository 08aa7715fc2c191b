import type {QemuProcess} from '../repository/manifest.ts';
import type {Machine} from '../repository/machine.ts';
import type {Repository} from '../repository/repository.ts';
import type {BackupRequest} from './backup-messages.ts';
import type {CopyTask} from './copy-task.ts';

/** All that was asked for, found and decided before a point is taken. */
export interface PointTask extends CopyTask {
	readonly request: BackupRequest;
	readonly repository: Repository;
	/** The VM's QEMU; null where it is not known. */
	readonly qemuProcess: QemuProcess | null;
	readonly skipped: readonly {readonly name: string; readonly reason: string}[];
	readonly warnings: readonly string[];
	readonly machine: Machine;
}
