import type {ChosenMethod} from './choose-method.ts';
import type {GroupMember} from './group.ts';
import type {Guard} from './guard.ts';
import type {DiskCopy} from './plan-copies.ts';
import type {Quiescer} from './quiescer.ts';
import type {Run} from './run.ts';
import type {Session} from './vm-session.ts';
import type {QuiesceRequest} from './with-quiescer.ts';

/** How the disks of a VM are to be cut and read. */
export interface CopyRequest extends Omit<QuiesceRequest, 'sockets'> {
	/** For how long a request of the guest may wait for `fleece`. Whole, 1 to 4; default 2. */
	readonly maxStallSeconds?: number | undefined;
	/** After so long without any progress the copy fails; undefined for the method's own. */
	readonly targetTimeoutMs?: number | undefined;
	/** For each disk. */
	readonly speedBytesPerSecond?: number | undefined;
}

/** All that was found and decided before disks are cut and copied to a sink. */
export interface CopyTask {
	readonly request: CopyRequest;
	readonly vm: Session;
	readonly run: Run;
	readonly quiescer: Quiescer | undefined;
	readonly copies: readonly DiskCopy[];
	readonly qemuUid: number | undefined;
	readonly chosen: ChosenMethod;
	readonly guard: Guard;
	readonly member: GroupMember;
}
