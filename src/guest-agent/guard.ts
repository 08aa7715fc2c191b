import {type ChildProcess, spawn} from 'node:child_process';
import type net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';
import type {Readable, Writable} from 'node:stream';
import {fileURLToPath} from 'node:url';
import {formatAddress, type SocketAddress} from '../config/address.ts';
import type {LockHolder} from '../host/lock.ts';
import {AgentError} from './errors.ts';

/** What the tool tells its guard, one JSON line each. The guard answers each with the line `ok`. */
export type GuardOrder =
	| {readonly order: 'arm'; readonly deadlineMs: number}
	| {readonly order: 'disarm'}
	| {readonly order: 'keep'; readonly deadlineMs: number; readonly token: string; readonly holder: LockHolder};

const ANSWER_MS = 5_000;

/**
 * A small process that thaws the guest if this one cannot. While armed, it thaws when this process dies, however it
 * dies; and at the deadline it ends this process with SIGKILL, since the agent serves one client, and thaws. It outlives
 * Ctrl-C and SIGTERM, and says what it did on our stderr.
 */
export class ThawGuard {
	readonly #child: ChildProcess;
	readonly #input: Writable;
	readonly #answers: AsyncIterator<string>;

	private constructor(child: ChildProcess, input: Writable, output: Readable) {
		this.#child = child;
		this.#input = input;
		input.on('error', () => undefined);
		// Pipes are sockets. A keeping guard must not hold this process back; where an answer is due its timer does.
		for (const pipe of [input, output]) (pipe as net.Socket).unref();
		this.#answers = readline.createInterface({input: output})[Symbol.asyncIterator]();
	}

	/** Resolves once the guard is ready, before which nothing must be frozen. Whoever starts it ends it. */
	static async start(agent: SocketAddress): Promise<ThawGuard> {
		const here = fileURLToPath(import.meta.url);
		const program = path.join(path.dirname(here), `guard-process${path.extname(here)}`);
		const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, formatAddress(agent)], {
			stdio: ['pipe', 'pipe', 'inherit'],
			detached: true,
		});
		child.unref();
		const guard = new ThawGuard(child, child.stdin, child.stdout);
		child.once('error', () => undefined);
		try {
			await guard.#answer('start');
			return guard;
		} catch (error) {
			child.kill('SIGKILL');
			throw error;
		}
	}

	get pid(): number | undefined {
		return this.#child.pid;
	}

	/** From its return until {@link disarm}, the guest is thawed within `deadlineMs`, and at once when this process dies. */
	arm(deadlineMs: number): Promise<void> {
		return this.#give({order: 'arm', deadlineMs});
	}

	/** Never fails: a guard that does not answer is killed, lest it wake up later and end this process. */
	async disarm(): Promise<void> {
		try {
			await this.#give({order: 'disarm'});
		} catch {
			this.#child.kill('SIGKILL');
		}
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
		this.#input.end();
	}

	async #give(order: GuardOrder): Promise<void> {
		this.#input.write(`${JSON.stringify(order)}\n`);
		await this.#answer(order.order);
	}

	async #answer(order: string): Promise<void> {
		let timer: NodeJS.Timeout | undefined;
		const late = new Promise<undefined>(resolve => {
			timer = setTimeout(resolve, ANSWER_MS, undefined);
		});
		const answer = await Promise.race([this.#answers.next(), late]);
		clearTimeout(timer);
		if (answer?.value !== 'ok') {
			throw new AgentError(`the thaw guard failed (${order}: ${answer?.value ?? 'no answer'})`, {
				hint: 'Nothing is frozen without a guard. Is there memory and room for one more process?',
			});
		}
	}
}
