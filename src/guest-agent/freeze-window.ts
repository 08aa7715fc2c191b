import {performance} from 'node:perf_hooks';
import {asError} from '../errors.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {GuestAgent} from './agent.ts';
import {AgentError} from './errors.ts';
import {clearMarker, markFrozen} from './frozen-marker.ts';
import type {ThawGuard} from './guard.ts';

/** How long the guest may stay frozen after its answer to the freeze, before the guard ends the run. */
const HOLD_MS = 60_000;
const THAW_ATTEMPTS = 3;

export interface FreezeOptions {
	readonly run: string;
	/** For the freeze itself, which waits for the guest's hooks. */
	readonly timeoutMs: number;
	readonly mountpoints?: readonly string[] | undefined;
	/** How long the work inside may take. */
	readonly holdMs?: number;
}

/** What a freeze was worth. Times in milliseconds. */
export interface FreezeWindow {
	/** File systems frozen by us. */
	readonly frozen: number;
	/** File systems found frozen at the thaw. */
	readonly thawed: number;
	/** From our request to the agent's reply. */
	readonly freezeMs: number;
	/** From the agent's reply to our request to thaw: our own share. */
	readonly heldMs: number;
	readonly thawMs: number;
	/** Why what was done inside may not have been done on quiet file systems. */
	readonly doubt?: string;
}

/**
 * Freezes, does `work`, and thaws on every path. The guard must be ready; it is armed before the freeze and left armed
 * if the guest could not be thawed. Throws what `work` throws; an {@link AgentError} if the freeze failed, in which case
 * `work` was not done.
 */
export async function whileFrozen<Value>(
	agent: GuestAgent,
	guard: ThawGuard,
	{run, timeoutMs, mountpoints, holdMs = HOLD_MS}: FreezeOptions,
	work: () => Promise<Value>,
): Promise<{value: Value; window: FreezeWindow}> {
	await guard.arm(timeoutMs + holdMs);
	await markFrozen(agent.address, run);
	const asked = performance.now();
	let frozen: number;
	try {
		frozen = await agent.freeze(timeoutMs, mountpoints);
		if (frozen === 0) throw new AgentError('the guest agent froze no file system');
	} catch (error) {
		// Hooks may have quieted an application before another one failed, and a freeze that timed out may still come.
		await thawAfter(agent, guard, error);
		throw error;
	}
	const answered = performance.now();
	let value: Value;
	let heldMs: number;
	try {
		value = await work();
		heldMs = performance.now() - answered;
	} catch (error) {
		await thawAfter(agent, guard, error);
		throw error;
	}
	const thawing = performance.now();
	const {thawed, doubt} = await thawSurely(agent, guard);
	const window = {frozen, thawed, freezeMs: answered - asked, heldMs, thawMs: performance.now() - thawing};
	const lost =
		thawed < frozen ? `${frozen} file systems were frozen, but only ${thawed} still were at the thaw` : doubt;
	return {value, window: lost === undefined ? window : {...window, doubt: lost}};
}

/** Thaws after a failure, whose error is never lost. */
async function thawAfter(agent: GuestAgent, guard: ThawGuard, error: unknown): Promise<void> {
	try {
		await thawSurely(agent, guard);
	} catch (second) {
		throw new AgentError(`${asError(error).message}; and then: ${asError(second).message}`, {
			cause: new AggregateError([error, second]),
			hint: second instanceof AgentError ? second.hint : undefined,
		});
	}
}

/** Thaws until the agent says so, and then disarms the guard. */
export async function thawSurely(agent: GuestAgent, guard: ThawGuard): Promise<{thawed: number; doubt?: string}> {
	let last: unknown;
	for (let attempt = 0; attempt < THAW_ATTEMPTS; attempt++) {
		try {
			const thawed = await agent.thaw();
			await release(agent, guard);
			return {thawed};
		} catch (error) {
			last = error;
		}
		if (agent.isClosed && (await hasEnded(agent))) {
			await release(agent, guard);
			return {thawed: 0, doubt: 'the VM has ended'};
		}
		// Hooks run after the thaw, and VSS of Windows reports a freeze it could not hold: both as an error of the thaw.
		if ((await agent.status().catch(() => 'frozen')) === 'thawed') {
			await release(agent, guard);
			return {thawed: 0, doubt: asError(last).message};
		}
	}
	throw new AgentError(`the guest may still be frozen: ${asError(last).message}`, {
		cause: last,
		hint: `The thaw guard (process ${guard.pid ?? 'unknown'}) goes on trying; \`quiesce thaw\` tries at once.`,
	});
}

/** A socket that closes and refuses us is that of a VM which has ended: nothing is frozen any more. */
async function hasEnded(agent: GuestAgent): Promise<boolean> {
	try {
		(await GuestAgent.open(agent.address)).close();
		return false;
	} catch (error) {
		return error instanceof UnreachableError;
	}
}

async function release(agent: GuestAgent, guard: ThawGuard): Promise<void> {
	await clearMarker(agent.address);
	await guard.disarm();
}
