import {type ChildProcess, spawn} from 'node:child_process';
import type net from 'node:net';
import readline from 'node:readline';
import type {Readable, Writable} from 'node:stream';
import type {SocketAddress} from '../config/address.ts';
import {AgentError} from '../guest-agent/errors.ts';
import type {ThawGuard} from '../guest-agent/freeze-window.ts';
import type {LockHolder} from '../host/lock.ts';
import {programBeside} from '../host/program-beside.ts';

/** What a guard is to look after. */
export interface Guarded {
	readonly agent?: SocketAddress | undefined;
	/** The VM in which the run leaves things; undefined for a run that only freezes. */
	readonly vm?: {
		/** Undefined for a VM that is off: what the run has inside a daemon goes with that. */
		readonly qmp: SocketAddress | undefined;
		readonly name: string;
		/** Where the run has a partial point, if it has one. */
		readonly repository?: string | undefined;
	};
}

/** What a guard is started with. */
export interface GuardTask extends Guarded {
	/** The process that it guards. */
	readonly tool: number;
}

/** What the tool tells its guard, one JSON line each. The guard answers each with the line `ok`. */
export type GuardOrder =
	| {readonly order: 'arm'; readonly deadlineMs: number}
	| {readonly order: 'disarm'}
	| {readonly order: 'watch-pause'; readonly deadlineMs: number}
	| {readonly order: 'pause-over'}
	| {readonly order: 'keep'; readonly deadlineMs: number; readonly token: string; readonly holder: LockHolder}
	| {readonly order: 'end'};

const ANSWER_MS = 5_000;
/** Nothing is at stake before it is there, and a busy host takes its time to start a program. */
const START_MS = 30_000;

/**
 * A small process that cleans up after this one if that cannot do it itself. When this process dies, however it dies,
 * the guard resumes a VM that it had paused, thaws a guest that it had frozen, and undoes what else it left in the VM. At
 * a deadline it ends this process with SIGKILL, since monitor and agent serve one client, and does the same. It outlives
 * Ctrl-C and SIGTERM, and says what it did on our stderr.
 */
export class Guard implements ThawGuard {
	readonly #child: ChildProcess;
	readonly #input: Writable;
	readonly #answers: AsyncIterator<string>;
	readonly #started: Promise<void>;

	private constructor(child: ChildProcess, input: Writable, output: Readable) {
		this.#child = child;
		this.#input = input;
		input.on('error', () => undefined);
		// Pipes are sockets. A keeping guard must not hold this process back; where an answer is due its timer does.
		for (const pipe of [input, output]) (pipe as net.Socket).unref();
		this.#answers = readline.createInterface({input: output})[Symbol.asyncIterator]();
		this.#started = this.#answer('start', START_MS).catch((error: unknown) => {
			child.kill('SIGKILL');
			throw error;
		});
		this.#started.catch(() => undefined);
	}

	/** Before {@link ready} nothing must be frozen, paused or left anywhere. Whoever starts it ends it. */
	static start(guarded: Guarded): Guard {
		const program = programBeside(import.meta.url, 'guard-process');
		const child = spawn(
			process.execPath,
			[
				'--disable-warning=ExperimentalWarning',
				program,
				JSON.stringify({...guarded, tool: process.pid} satisfies GuardTask),
			],
			{
				stdio: ['pipe', 'pipe', 'inherit'],
				detached: true,
			},
		);
		child.unref();
		child.once('error', () => undefined);
		return new Guard(child, child.stdin, child.stdout);
	}

	get pid(): number | undefined {
		return this.#child.pid;
	}

	/** Resolves when the guard is at work; rejects, as every order does, if it did not start. */
	ready(): Promise<void> {
		return this.#started;
	}

	/** From its return until {@link disarm}, the guest is thawed within `deadlineMs`, and at once when this process dies. */
	arm(deadlineMs: number): Promise<void> {
		return this.#give({order: 'arm', deadlineMs});
	}

	/** Never fails: a guard that does not answer is killed, lest it wake up later and end this process. */
	disarm(): Promise<void> {
		return this.#giveOrKill({order: 'disarm'});
	}

	/** As {@link arm}, for a VM that is going to be paused: until {@link pauseOver} it is resumed if it is found so. */
	watchPause(deadlineMs: number): Promise<void> {
		return this.#give({order: 'watch-pause', deadlineMs});
	}

	/** Never fails, as {@link disarm}. */
	pauseOver(): Promise<void> {
		return this.#giveOrKill({order: 'pause-over'});
	}

	/**
	 * Lets the guard outlive this process, with the guest frozen until `deadlineMs` have passed or someone shows `token`.
	 * It takes over the guest's lock, which must be free.
	 */
	keep(deadlineMs: number, token: string, holder: Omit<LockHolder, 'pid'>): Promise<void> {
		return this.#give({order: 'keep', deadlineMs, token, holder: {...holder, pid: this.#child.pid ?? 0}});
	}

	/** Ends a guard that is not armed; an armed one thaws first, as soon as the agent's socket is free; a keeping one stays. */
	end(): void {
		this.#input.end(`${JSON.stringify({order: 'end'} satisfies GuardOrder)}\n`);
	}

	async #giveOrKill(order: GuardOrder): Promise<void> {
		try {
			await this.#give(order);
		} catch {
			this.#child.kill('SIGKILL');
		}
	}

	async #give(order: GuardOrder): Promise<void> {
		await this.#started;
		this.#input.write(`${JSON.stringify(order)}\n`);
		await this.#answer(order.order);
	}

	async #answer(order: string, withinMs = ANSWER_MS): Promise<void> {
		let timer: NodeJS.Timeout | undefined;
		const late = new Promise<undefined>(resolve => {
			timer = setTimeout(resolve, withinMs, undefined);
		});
		const answer = await Promise.race([this.#answers.next(), late]);
		clearTimeout(timer);
		if (answer?.value !== 'ok') {
			throw new AgentError(`the guard failed (${order}: ${answer?.value ?? 'no answer'})`, {
				hint: 'Nothing is frozen without a guard. Is there memory and room for one more process?',
			});
		}
	}
}
