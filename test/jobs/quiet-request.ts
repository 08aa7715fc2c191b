import type {CopyRequest} from '../../src/operations/copy-task.ts';
import type {VmSockets} from '../../src/operations/vm-session.ts';
import type {BareVm} from './bare-vm.ts';

/** What every operation on a VM without a guest is given: nothing is frozen, and nobody is told of anything. */
export function quietRequest({qmpPath}: Pick<BareVm, 'qmpPath'>): CopyRequest & {readonly sockets: VmSockets} {
	return {
		sockets: {qmp: {unix: qmpPath}},
		signal: new AbortController().signal,
		tell: () => undefined,
		quiesce: 'never',
		freezeTimeoutMs: 5_000,
	};
}
