import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import os from 'node:os';
import {newRunId} from '../block/names.ts';
import {type SocketAddress, formatAddress} from '../config/address.ts';
import {asError, errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {freezeLastingly, type FreezeWindow} from '../guest-agent/freeze-window.ts';
import {agentLockKey} from '../guest-agent/frozen-marker.ts';
import {type HostLock, takeLock} from '../host/lock.ts';
import type {Transcript} from '../qmp/transcript.ts';
import {ALONE, type GroupMember, WAIT_MS} from './group.ts';
import {Guard} from './guard.ts';
import {openQuiescer, type Quiescer} from './quiescer.ts';

/** Between the request to end and the end by force. */
const GRACE_MS = 5_000;

export interface FreezeRequest {
	readonly agent: SocketAddress;
	readonly freezeTimeoutMs: number;
	/** How long the guest may stay frozen. */
	readonly holdMs: number;
	readonly mountpoints?: readonly string[] | undefined;
	readonly signal: AbortSignal;
	readonly transcript?: Transcript | undefined;
	readonly tell: (what: string) => void;
	/** What keeps it in step with the other guests of a group. */
	readonly member?: GroupMember | undefined;
}

/** A freeze with a command that runs meanwhile. */
export interface CommandRequest extends FreezeRequest {
	/** Where a program's standard output goes: to ours, or to our standard error. */
	readonly commandOutput: 'stdout' | 'stderr';
}

export interface LastingFreeze {
	readonly fileSystems: number;
	/** RFC 3339: when the guard thaws the guest, if nobody has. */
	readonly until: string;
}

/** Freezes and returns, with the guest frozen: until `thaw`, or until the guard thaws it after `holdMs`. */
export function freezeUntilThawed(request: FreezeRequest): Promise<LastingFreeze> {
	const {member = ALONE} = request;
	return withQuiescerOf(request, request.holdMs, async ({agent}, {run, lock, guard}) => {
		await member.readyToFreeze('');
		const until = new Date(Date.now() + request.holdMs).toISOString();
		const {freezeTimeoutMs: timeoutMs, mountpoints, holdMs} = request;
		const fileSystems = await freezeLastingly(
			agent,
			guard,
			{run, timeoutMs, mountpoints, holdMs},
			{
				doing: `a freeze that lasts until ${until}`,
				// The guard takes the lock over.
				releaseLock: async () => {
					await member.readyToCut();
					await lock.release();
				},
			},
		);
		return {fileSystems, until};
	});
}

export interface FrozenCommand {
	/** That of the command; 128 and its signal's number if a signal ended it. */
	readonly exitStatus: number;
	readonly window: FreezeWindow;
}

/**
 * Runs a program while the guest is frozen, with our own standard streams. Thaws on every path: after `holdMs`, or when
 * aborted, the program is ended first. Throws if the guest was not frozen; then the program did not run.
 */
export function freezeAround(request: CommandRequest, argv: readonly string[]): Promise<FrozenCommand> {
	const command = commandOf(argv);
	return freezeWhile(request, () => runCommand(request, command));
}

/** Freezes while the command runs that `run` starts or waits for. As {@link freezeAround}. */
export function freezeWhile(request: FreezeRequest, run: () => Promise<number>): Promise<FrozenCommand> {
	const {member = ALONE, signal, holdMs} = request;
	return withQuiescerOf(request, holdMs + WAIT_MS + 2 * GRACE_MS, async quiescer => {
		await member.readyToFreeze('');
		const {value: exitStatus, window} = await quiescer.whileFrozen(async () => {
			signal.throwIfAborted();
			await member.readyToCut();
			return run();
		});
		return {exitStatus, window};
	});
}

/** A program, and its arguments. */
export type Command = readonly [program: string, ...args: string[]];

export function commandOf([program, ...args]: readonly string[]): Command {
	if (program === undefined) throw new UsageError('no command is named after --');
	return [program, ...args];
}

async function withQuiescerOf<Value>(
	request: FreezeRequest,
	holdMs: number,
	use: (
		quiescer: Quiescer,
		held: {readonly run: string; readonly lock: HostLock; readonly guard: Guard},
	) => Promise<Value>,
): Promise<Value> {
	const run = newRunId();
	const holder = {pid: process.pid, run, doing: 'a freeze'};
	const lock = await takeLock(await agentLockKey(request.agent), 'the guest', holder);
	request.member?.holds(formatAddress(request.agent));
	const guard = Guard.start({agent: request.agent});
	try {
		const quiescer = await openQuiescer(request.agent, {...request, run, holdMs, guard});
		try {
			quiescer.recovered.forEach(request.tell);
			return await use(quiescer, {run, lock, guard});
		} finally {
			quiescer.close();
		}
	} finally {
		guard.end();
		await lock.release();
	}
}

/** How a program is run with our own standard streams. */
export interface CommandLimits extends Pick<CommandRequest, 'signal' | 'commandOutput'> {
	/** For how long at the most; undefined for as long as it likes. */
	readonly holdMs?: number | undefined;
	/** What it may not outlast, in words. */
	readonly meanwhile?: string | undefined;
	/** Besides our own. */
	readonly environment?: Readonly<Record<string, string>> | undefined;
}

/** With our own standard streams. Returns its exit status. */
export async function runCommand(
	{holdMs, signal, commandOutput, environment = {}, meanwhile = 'the guest was frozen'}: CommandLimits,
	[program, ...args]: Command,
): Promise<number> {
	const child = spawn(program, args, {
		stdio: ['inherit', commandOutput === 'stdout' ? 1 : 2, 'inherit'],
		env: {...process.env, ...environment},
	});
	const exit = once(child, 'exit');
	let why: unknown;
	const end = (reason: unknown): void => {
		why = reason;
		endProgram(child);
	};
	const onAbort = (): void => {
		end(signal.reason);
	};
	const timer =
		holdMs === undefined
			? undefined
			: setTimeout(() => {
					end(new QuiesceError('FAILED', `${program} ran longer than ${holdMs / 1000} s while ${meanwhile}`));
				}, holdMs);
	signal.addEventListener('abort', onAbort, {once: true});
	try {
		const [code, name] = (await exit) as [number | null, NodeJS.Signals | null];
		if (why !== undefined) throw asError(why);
		return code ?? 128 + signalNumber(name);
	} catch (error) {
		if (errnoOf(error) === undefined) throw error;
		throw new QuiesceError('FAILED', `cannot run ${program}: ${asError(error).message}`, {cause: error});
	} finally {
		clearTimeout(timer);
		signal.removeEventListener('abort', onAbort);
	}
}

function endProgram(child: ChildProcess): void {
	child.kill('SIGTERM');
	const timer = setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
	child.once('exit', () => {
		clearTimeout(timer);
	});
}

function signalNumber(name: NodeJS.Signals | null): number {
	return name === null ? 0 : os.constants.signals[name];
}
