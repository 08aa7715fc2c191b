import type {SocketAddress} from '../config/address.ts';
import {GuestAgent} from '../guest-agent/agent.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {type FreezeWindow, whileFrozen} from '../guest-agent/freeze-window.ts';
import {UnreachableError} from '../qmp/errors.ts';
import type {Transcript} from '../qmp/transcript.ts';
import type {Guard} from './guard.ts';
import {thawLeftover} from './thaw-leftover.ts';

/** `require`: no point without a freeze. `try`: freeze if it can be done, and say so if not. `never`: do not even ask. */
export type QuiescePolicy = 'require' | 'try' | 'never';

export interface QuiesceOptions {
	/** One that looks after this agent. */
	readonly guard: Guard;
	readonly run: string;
	readonly freezeTimeoutMs: number;
	readonly mountpoints?: readonly string[] | undefined;
	readonly holdMs?: number;
}

/** An agent that can freeze, with the guard ready. Whoever opens it closes it. */
export interface Quiescer {
	/** What was found and mended at opening. */
	readonly recovered: readonly string[];
	whileFrozen<Value>(work: () => Promise<Value>): Promise<{value: Value; window: FreezeWindow}>;
	readonly agent: GuestAgent;
	close(): void;
}

/**
 * Connects to the agent, and thaws what a dead run of ours left frozen. Throws an {@link AgentError}
 * where the guest cannot be frozen, also when someone else has frozen it: then it is theirs to thaw. The caller holds
 * the agent's lock.
 */
export async function openQuiescer(
	address: SocketAddress,
	options: QuiesceOptions & {signal?: AbortSignal | undefined; transcript?: Transcript | undefined},
): Promise<Quiescer> {
	const record = options.transcript?.of('agent');
	const agent = await GuestAgent.open(address, {signal: options.signal, record});
	try {
		const recovered = await thawLeftover(agent);
		const info = await agent.info();
		const command = options.mountpoints ? 'guest-fsfreeze-freeze-list' : 'guest-fsfreeze-freeze';
		if (!info.commands.has(command)) {
			throw new AgentError(`the guest agent does not allow ${command}`, {
				hint: "Allow it in the guest's qemu-ga configuration (block-rpcs, allow-rpcs).",
			});
		}
		const {guard} = options;
		await guard.ready();
		return {
			recovered,
			agent,
			whileFrozen: work => whileFrozen(agent, guard, {...options, timeoutMs: options.freezeTimeoutMs}, work),
			close: () => {
				agent.close();
			},
		};
	} catch (error) {
		agent.close();
		throw error;
	}
}

/** True for failures of the guest's side, which leave a crash-consistent point possible. */
export function isQuiesceFailure(error: unknown): error is AgentError | UnreachableError {
	return error instanceof AgentError || error instanceof UnreachableError;
}
