import {concat, concatMap, defer, EMPTY, type Observable} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {agentLockKey} from '../guest-agent/frozen-marker.ts';
import {takeLock} from '../host/lock.ts';
import {scoped} from '../rx/scoped.ts';
import type {GuardedRun} from './with-guard.ts';
import {isQuiesceFailure, openQuiescer, type QuiescePolicy, type Quiescer} from './quiescer.ts';
import type {Session, VmSession} from './vm-session.ts';
import {lostErrors, type VmRequest} from './with-vm.ts';

export interface QuiesceRequest extends VmRequest {
	readonly quiesce: QuiescePolicy;
	/** For the freeze, with the guest's hooks. */
	readonly freezeTimeoutMs: number;
	/** Only the file systems there, instead of all. */
	readonly mountpoints?: readonly string[] | undefined;
}

/** What was found frozen by a dead run, and thawed. */
export interface RecoveredMessage {
	readonly kind: 'recovered';
	readonly text: string;
}

/**
 * Opens the agent as the policy wants it, under the lock of its guest, says what was mended, and goes on with what `prepare` returns. Under `never`, and
 * under `try` where the guest cannot be frozen, that is called without a quiescer; in the second case with the reason.
 */
export function withQuiescer<Message>(
	request: Omit<QuiesceRequest, 'sockets'>,
	vm: Session,
	guarded: GuardedRun,
	prepare: (quiescer: Quiescer | undefined, whyNot?: string) => Promise<Observable<Message>>,
): Observable<Message | RecoveredMessage> {
	const {quiesce: policy} = request;
	const use = (quiescer: Quiescer | undefined, whyNot?: string): Observable<Message | RecoveredMessage> =>
		concat(
			(quiescer?.recovered ?? []).map(text => ({kind: 'recovered' as const, text})),
			defer(() => prepare(quiescer, whyNot)).pipe(concatMap(prepared$ => prepared$)),
		);
	return defer(() => {
		// Nobody writes to the disks of a VM that is off.
		if (policy === 'never' || vm.power === 'off') return use(undefined);
		const agent = agentOf(vm);
		if (!(agent instanceof AgentError)) return withAgent(request, agent, vm.name, guarded, use);
		if (policy === 'require') throw agent;
		return use(undefined, agent.message);
	});
}

function agentOf(vm: VmSession): SocketAddress | AgentError {
	if (!vm.running) return new AgentError(`the VM does not run (${vm.status}), so its guest agent cannot freeze it`);
	return (
		vm.sockets.agent ??
		new AgentError('no guest agent is known', {hint: 'Name its socket with --agent, or do without: --quiesce never.'})
	);
}

function withAgent<Message>(
	request: Omit<QuiesceRequest, 'sockets'>,
	address: SocketAddress,
	vm: string,
	{run, guard}: GuardedRun,
	use: (quiescer: Quiescer | undefined, whyNot?: string) => Observable<Message>,
): Observable<Message> {
	const onLostError = lostErrors(request);
	const holder = {pid: process.pid, run: run.id, doing: 'a run that may freeze it'};
	const open = async (): Promise<Quiescer | Error> => {
		try {
			return await openQuiescer(address, {...request, run: run.id, guard});
		} catch (error) {
			if (request.quiesce === 'require' || !isQuiesceFailure(error)) throw error;
			return error;
		}
	};
	return scoped({
		acquire: async () => takeLock(await agentLockKey(address), `the guest agent of ${vm}`, holder),
		release: lock => lock.release(),
		onLostError,
		use: () =>
			scoped({
				acquire: open,
				release: quiescer => {
					if (!(quiescer instanceof Error)) quiescer.close();
					return EMPTY;
				},
				onLostError,
				use: quiescer => (quiescer instanceof Error ? use(undefined, quiescer.message) : use(quiescer)),
			}),
	});
}
