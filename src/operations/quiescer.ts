import type {SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {GuestAgent} from '../guest-agent/agent.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {type FreezeWindow, thawSurely, whileFrozen} from '../guest-agent/freeze-window.ts';
import {clearMarker, readMarker} from '../guest-agent/frozen-marker.ts';
import {ThawGuard} from '../guest-agent/guard.ts';
import {UnreachableError} from '../qmp/errors.ts';
import type {Transcript} from '../qmp/transcript.ts';

/** `require`: no point without a freeze. `try`: freeze if it can be done, and say so if not. `never`: do not even ask. */
export type QuiescePolicy = 'require' | 'try' | 'never';

export interface QuiesceOptions {
	readonly run: string;
	readonly freezeTimeoutMs: number;
	readonly mountpoints?: readonly string[] | undefined;
	readonly holdMs?: number;
}

/** An agent that can freeze, with its guard ready. Whoever opens it closes it. */
export interface Quiescer {
	/** What was found and mended at opening. */
	readonly recovered: readonly string[];
	whileFrozen<Value>(work: () => Promise<Value>): Promise<{value: Value; window: FreezeWindow}>;
	readonly agent: GuestAgent;
	readonly guard: ThawGuard;
	close(): void;
}

/**
 * Connects to the agent, thaws what a dead run of ours left frozen, and starts the guard. Throws an {@link AgentError}
 * where the guest cannot be frozen, also when someone else has frozen it: then it is theirs to thaw. The caller holds
 * the agent's lock.
 */
export async function openQuiescer(
	address: SocketAddress,
	options: QuiesceOptions & {signal?: AbortSignal | undefined; transcript?: Transcript | undefined},
): Promise<Quiescer> {
	const record = options.transcript?.of('agent');
	const [agent, guard] = await openBoth(address, options.signal, record);
	try {
		const recovered = await thawLeftover(agent, guard);
		const info = await agent.info();
		const command = options.mountpoints ? 'guest-fsfreeze-freeze-list' : 'guest-fsfreeze-freeze';
		if (!info.commands.has(command)) {
			throw new AgentError(`the guest agent does not allow ${command}`, {
				hint: "Allow it in the guest's qemu-ga configuration (block-rpcs, allow-rpcs).",
			});
		}
		return {
			recovered,
			agent,
			guard,
			whileFrozen: work => whileFrozen(agent, guard, {...options, timeoutMs: options.freezeTimeoutMs}, work),
			close: () => {
				guard.end();
				agent.close();
			},
		};
	} catch (error) {
		guard.end();
		agent.close();
		throw error;
	}
}

async function openBoth(
	address: SocketAddress,
	signal: AbortSignal | undefined,
	record: ReturnType<Transcript['of']> | undefined,
): Promise<[GuestAgent, ThawGuard]> {
	const [agent, guard] = await Promise.allSettled([
		GuestAgent.open(address, {signal, record}),
		ThawGuard.start(address),
	]);
	if (agent.status === 'fulfilled' && guard.status === 'fulfilled') return [agent.value, guard.value];
	if (agent.status === 'fulfilled') agent.value.close();
	if (guard.status === 'fulfilled') guard.value.end();
	const failed = [agent, guard].find(result => result.status === 'rejected');
	throw asError(failed?.reason);
}

/** We hold the lock, so a marker is that of a run which is no more. */
async function thawLeftover(agent: GuestAgent, guard: ThawGuard): Promise<string[]> {
	if ((await agent.status()) === 'thawed') {
		// Or a later freeze by someone else would look like that of the dead run.
		await clearMarker(agent.address);
		return [];
	}
	const marker = await readMarker(agent.address);
	if (!marker) {
		throw new AgentError('the guest is already frozen, and not by us', {
			hint: 'Another backup program may be at work. If not, thaw it with `quiesce thaw`.',
		});
	}
	const {thawed} = await thawSurely(agent, guard);
	return [`thawed the guest (${thawed} file systems), which run ${marker.run} left frozen at ${marker.since}`];
}

/** True for failures of the guest's side, which leave a crash-consistent point possible. */
export function isQuiesceFailure(error: unknown): error is AgentError | UnreachableError {
	return error instanceof AgentError || error instanceof UnreachableError;
}
