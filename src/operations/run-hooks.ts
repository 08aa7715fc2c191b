import fs from 'node:fs/promises';
import {asError, QuiesceError} from '../errors.ts';
import {commandOf, runCommand} from './freeze.ts';

/** What a run comes through, in its order. */
export type RunMoment = 'run-start' | 'pre-freeze' | 'frozen' | 'thawed' | 'copied' | 'success' | 'failure';

/** What is known of the run: names of environment variables without their prefix, and their values. */
export type RunFacts = Readonly<Record<string, string | number | undefined>>;

/** What the operator wants done on the host at the moments of a run. */
export interface RunHooks {
	/**
	 * Does it. Throws if that failed and is to end the run, or the reason of `signal`, which ends what is being done. Bounded by the
	 * time-outs of that.
	 */
	at(moment: RunMoment, signal: AbortSignal, facts?: RunFacts): Promise<void>;
}

/** For a run without any. */
export const NO_HOOKS: RunHooks = {at: () => Promise.resolve()};

export interface HookAction {
	/** A command; or a URL that is asked for, or a file that it is in, as it may be a secret. */
	readonly does: {readonly command: readonly string[]} | {readonly url: string} | {readonly urlIn: string};
	/** Default 60 s, for a URL 10 s; within the freeze 3 s, which is also the most there. */
	readonly timeoutMs?: number | undefined;
	/** Default by the moment: `abort` until the guest is frozen, and `warn` after. A ping only ever warns if nothing is said. */
	readonly whenItFails?: 'abort' | 'warn' | undefined;
}

const TIMEOUT_MS = 60_000;
const PING_TIMEOUT_MS = 10_000;
/** Well within the time for which a freeze is held. */
const FROZEN_TIMEOUT_MS = 3_000;

const ABORTS_BY_DEFAULT: readonly RunMoment[] = ['run-start', 'pre-freeze', 'frozen'];
/** The run has ended. */
const TOO_LATE_TO_ABORT: readonly RunMoment[] = ['success', 'failure'];

export type HookActions = Readonly<Partial<Record<RunMoment, readonly HookAction[]>>>;

/** What commands print goes to our stderr. `known` is known of the run from its start; `tell` gets the warnings. */
export function hooksOf(actions: HookActions, known: RunFacts, tell: (text: string) => void): RunHooks {
	return {
		at: async (moment, signal, facts = {}) => {
			// What is told of the end is told of one that was cancelled too.
			const ending = TOO_LATE_TO_ABORT.includes(moment) ? new AbortController().signal : signal;
			for (const action of actions[moment] ?? []) {
				try {
					await carryOut(action, moment, {...known, ...facts}, ending);
				} catch (error) {
					ending.throwIfAborted();
					const failure = new QuiesceError('FAILED', `hook ${moment}: ${asError(error).message}`, {cause: error});
					if (aborts(action, moment)) throw failure;
					tell(failure.message);
				}
			}
		},
	};
}

function aborts({does, whenItFails}: HookAction, moment: RunMoment): boolean {
	if (TOO_LATE_TO_ABORT.includes(moment)) return false;
	return (whenItFails ?? ('command' in does && ABORTS_BY_DEFAULT.includes(moment) ? 'abort' : 'warn')) === 'abort';
}

async function carryOut(
	{does, timeoutMs}: HookAction,
	moment: RunMoment,
	facts: RunFacts,
	signal: AbortSignal,
): Promise<void> {
	const usual = 'command' in does ? TIMEOUT_MS : PING_TIMEOUT_MS;
	const ms = moment === 'frozen' ? Math.min(timeoutMs ?? FROZEN_TIMEOUT_MS, FROZEN_TIMEOUT_MS) : (timeoutMs ?? usual);
	if (!('command' in does)) return ping(does, ms, signal);
	const status = await runCommand(
		{
			signal,
			commandOutput: 'stderr',
			holdMs: ms,
			meanwhile: 'the run waited',
			environment: environmentOf(moment, facts),
		},
		commandOf(does.command),
	);
	if (status !== 0) throw new Error(`${does.command[0] ?? ''} ended with status ${status}`);
}

function environmentOf(moment: RunMoment, facts: RunFacts): Record<string, string> {
	const known = Object.entries(facts).flatMap(([name, value]) =>
		// What comes from QEMU may hold anything, but no environment holds a NUL.
		value === undefined ? [] : [[`QUIESCE_${name}`, String(value).replaceAll('\0', '')] as const],
	);
	return {QUIESCE_MOMENT: moment, ...Object.fromEntries(known)};
}

async function ping(
	does: {readonly url: string} | {readonly urlIn: string},
	ms: number,
	signal: AbortSignal,
): Promise<void> {
	const url = new URL('url' in does ? does.url : (await fs.readFile(does.urlIn, 'utf8')).trim());
	const late = AbortSignal.timeout(ms);
	let status: number;
	try {
		const response = await fetch(url, {signal: AbortSignal.any([signal, late])});
		status = response.status;
		await response.body?.cancel();
	} catch (error) {
		// The rest of the URL may be the secret.
		throw new Error(`no answer from ${url.host}: ${reasonOf(error)}`, {cause: error});
	}
	if (status >= 400) throw new Error(`${url.host} answered with status ${status}`);
}

/** `fetch` hides it. */
function reasonOf(error: unknown): string {
	const {cause, message} = asError(error);
	return cause instanceof Error ? cause.message : message;
}
