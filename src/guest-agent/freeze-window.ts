import {performance} from 'node:perf_hooks';
import {asError} from '../errors.ts';
import type {LockHolder} from '../host/lock.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {GuestAgent} from './agent.ts';
import {AgentError} from './errors.ts';
import {clearMarker, markFrozen} from './frozen-marker.ts';

/** The longest that Windows' VSS holds writes, and much longer than a cut takes. */
const HOLD_MS = 10_000;
/** The guard ends a run only if that has failed to end its work itself. */
const GUARD_MARGIN_MS = 5_000;
const THAW_ATTEMPTS = 3;
/** More than one attempt can take: the agent's own deadlines end it. */
const ATTEMPT_MS = 60_000;

/** Thaws the guest if this process cannot: `Guard` of src/operations is one. */
export interface ThawGuard {
	readonly pid: number | undefined;
	/** From its return until {@link disarm}, the guest is thawed within `deadlineMs`, and at once when this process dies. */
	arm(deadlineMs: number): Promise<void>;
	/** Never fails. */
	disarm(): Promise<void>;
	/** Outlives this process, and keeps the guest frozen until `deadlineMs` have passed or someone shows `token`. */
	keep(deadlineMs: number, token: string, holder: Omit<LockHolder, 'pid'>): Promise<void>;
	/** An armed one thaws first, as soon as the agent's socket is free. */
	end(): void;
}

export interface FreezeOptions {
	readonly run: string;
	/** For the freeze itself, which waits for the guest's hooks. */
	readonly timeoutMs: number;
	readonly mountpoints?: readonly string[] | undefined;
	/** How long the work inside may take before it counts as failed; what it has begun may still happen then. */
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

interface ThawOutcome {
	readonly thawed: number;
	readonly doubt?: string;
}

/**
 * Freezes, does `work`, and thaws on every path. The guard must be ready; it is armed before the freeze, and takes over
 * if the guest could not be thawed. Throws what `work` throws; an {@link AgentError} if the freeze failed, in which case
 * `work` was not done.
 */
export async function whileFrozen<Value>(
	agent: GuestAgent,
	guard: ThawGuard,
	options: FreezeOptions,
	work: () => Promise<Value>,
): Promise<{value: Value; window: FreezeWindow}> {
	const {holdMs = HOLD_MS} = options;
	const {frozen, freezeMs} = await freeze(agent, guard, options);
	const answered = performance.now();
	let value: Value;
	let heldMs: number;
	try {
		value = await within(holdMs, work());
		heldMs = performance.now() - answered;
	} catch (error) {
		await thawAfter(agent, guard, error);
		throw error;
	}
	const thawing = performance.now();
	const {thawed, doubt} = await thawSurely(agent, guard);
	const window = {frozen, thawed, freezeMs, heldMs, thawMs: performance.now() - thawing};
	if (doubt !== undefined) return {value, window: {...window, doubt}};
	if (thawed >= frozen) return {value, window};
	const lost = `${frozen} file systems were frozen, but only ${thawed} still were at the thaw`;
	return {value, window: {...window, doubt: lost}};
}

export interface HandOver {
	/** For those who find the guest's lock taken. */
	readonly doing: string;
	/** Called when the guest is frozen: lets go of the lock, which the guard then takes. */
	readonly releaseLock: () => Promise<void>;
}

/**
 * Freezes, and leaves the guest frozen when this process ends: until someone shows the marker's token to the guard, or
 * until the guard thaws after `holdMs`. Returns how many file systems. On a failure the guest is thawed.
 */
export async function freezeLastingly(
	agent: GuestAgent,
	guard: ThawGuard,
	options: FreezeOptions,
	{doing, releaseLock}: HandOver,
): Promise<number> {
	const {frozen, token} = await freeze(agent, guard, options);
	try {
		await releaseLock();
		await guard.keep(options.holdMs ?? HOLD_MS, token, {run: options.run, doing});
		return frozen;
	} catch (error) {
		await thawAfter(agent, guard, error);
		throw error;
	}
}

/** Arms the guard, then freezes; thaws if that fails, or freezes nothing. */
async function freeze(
	agent: GuestAgent,
	guard: ThawGuard,
	{run, timeoutMs, mountpoints, holdMs = HOLD_MS}: FreezeOptions,
): Promise<{frozen: number; freezeMs: number; token: string}> {
	await guard.arm(timeoutMs + holdMs + GUARD_MARGIN_MS);
	let token: string;
	try {
		({token} = await markFrozen(agent.address, run));
	} catch (error) {
		await guard.disarm();
		throw error;
	}
	const asked = performance.now();
	try {
		const frozen = await agent.freeze(timeoutMs, mountpoints);
		if (frozen === 0) throw new AgentError('the guest agent froze no file system');
		return {frozen, freezeMs: performance.now() - asked, token};
	} catch (error) {
		// Hooks may have quieted an application before another one failed, and a freeze that timed out may still come.
		await thawAfter(agent, guard, error);
		throw error;
	}
}

async function within<Value>(ms: number, work: Promise<Value>): Promise<Value> {
	const {promise: late, reject} = Promise.withResolvers<never>();
	const timer = setTimeout(() => {
		reject(new AgentError(`the guest had been frozen for ${ms / 1000} s, and was thawed before the work was done`));
	}, ms);
	try {
		return await Promise.race([work, late]);
	} finally {
		clearTimeout(timer);
	}
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

/**
 * Thaws until the agent says so, over a new connection if that of `agent` has gone, and disarms the guard. Where the
 * guest cannot be shown to be thawed, hands it over to the guard: `agent` is then closed.
 */
async function thawSurely(agent: GuestAgent, guard: ThawGuard): Promise<ThawOutcome> {
	let session = agent;
	let last: unknown;
	try {
		for (let attempt = 0; attempt < THAW_ATTEMPTS; attempt++) {
			// A run whose thaw waits for slow hooks does not hang. Not waited for: the guest is frozen, and the guard may be dead.
			const armed = guard.arm(ATTEMPT_MS).catch(() => undefined);
			let outcome: ThawOutcome | undefined;
			try {
				if (session.isClosed) session = await GuestAgent.open(agent.address);
				outcome = await thawOnce(session);
			} catch (error) {
				last = error;
				// QEMU's own socket refuses us only once the VM has ended: nothing is frozen any more.
				if (error instanceof UnreachableError && error.vmHasEnded) outcome = {thawed: 0, doubt: 'the VM has ended'};
			}
			await armed;
			if (outcome) {
				await clearMarker(agent.address).finally(() => guard.disarm());
				return outcome;
			}
		}
	} finally {
		if (session !== agent) session.close();
	}
	// The guard needs the agent's only place.
	agent.close();
	guard.end();
	throw new AgentError(`the guest may still be frozen: ${asError(last).message}`, {
		cause: last,
		hint: `The guard (process ${guard.pid ?? 'unknown'}) goes on trying; \`quiesce thaw\` tries at once.`,
	});
}

async function thawOnce(agent: GuestAgent): Promise<ThawOutcome> {
	try {
		return {thawed: await agent.thaw()};
	} catch (error) {
		// Hooks run after the thaw, and VSS of Windows reports a freeze it could not hold: both as an error of the thaw.
		if ((await agent.status().catch(() => 'frozen')) === 'thawed') return {thawed: 0, doubt: asError(error).message};
		throw error;
	}
}
