import type {QemuProcess} from '../repository/manifest.ts';
import type {Machine} from '../repository/machine.ts';
import type {Repository} from '../repository/repository.ts';
import type {BackupRequest} from './backup-messages.ts';
import type {ChosenMethod} from './choose-method.ts';
import type {GroupMember} from './group.ts';
import type {Guard} from './guard.ts';
import type {Quiescer} from './quiescer.ts';
import type {Run} from './run.ts';
import type {DiskCopy} from './plan-copies.ts';
import type {Session} from './vm-session.ts';

/** All that was asked for, found and decided before a point is taken. */
export interface PointTask {
	readonly request: BackupRequest;
	readonly vm: Session;
	readonly run: Run;
	readonly repository: Repository;
	readonly quiescer: Quiescer | undefined;
	readonly copies: readonly DiskCopy[];
	/** The VM's QEMU; null where it is not known. */
	readonly qemuProcess: QemuProcess | null;
	readonly skipped: readonly {readonly name: string; readonly reason: string}[];
	readonly warnings: readonly string[];
	readonly machine: Machine;
	readonly qemuUid: number | undefined;
	readonly chosen: ChosenMethod;
	readonly guard: Guard;
	readonly member: GroupMember;
}
