import {randomInt} from 'node:crypto';
import type net from 'node:net';
import * as v from 'valibot';
import {formatAddress, type SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {JsonObjectFramer} from '../qmp/framer.ts';
import {connect} from '../qmp/socket.ts';
import type {RecordMessage} from '../qmp/transcript.ts';
import {AgentCommandError, AgentError, AgentTimeoutError} from './errors.ts';

/** An agent's answers are small, and the guest that sends them is not to be trusted with our memory. */
const MAX_REPLY_BYTES = 4 * 1024 * 1024;
const SYNC_MS = 5_000;
const QUICK_MS = 5_000;
/** A thaw waits for the guest's thaw hooks. */
const THAW_MS = 30_000;

const Info = v.object({
	version: v.pipe(v.string(), v.regex(/^\P{C}{1,100}$/u)),
	supported_commands: v.array(v.object({name: v.string(), enabled: v.boolean()})),
});
const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const Status = v.picklist(['frozen', 'thawed']);
const Reply = v.looseObject({
	return: v.optional(v.unknown()),
	error: v.optional(v.object({desc: v.string()})),
});

export type AgentStatus = v.InferOutput<typeof Status>;

export interface AgentInfo {
	readonly version: string;
	/** The names of those that are not blocked in the guest's configuration. */
	readonly commands: ReadonlySet<string>;
}

export interface AgentOptions {
	readonly signal?: AbortSignal | undefined;
	readonly record?: RecordMessage | undefined;
	/** How long the agent may take to show that it is there. */
	readonly syncMs?: number;
}

/**
 * A session with a QEMU guest agent (docs/interop/qemu-ga.rst). The agent is serial and has no greeting, and its socket
 * may hold what an earlier client did not read; so each session, and each one after a time-out, starts with
 * `guest-sync-delimited`. Whoever opens it closes it.
 */
export class GuestAgent {
	readonly address: SocketAddress;
	readonly #socket: net.Socket;
	readonly #record: RecordMessage | undefined;
	readonly #syncMs: number;
	#receive: (message: v.InferOutput<typeof Reply>) => void = () => undefined;
	#fail: (error: Error) => void = () => undefined;
	#synchronized = false;
	#closed: AgentError | undefined;
	#turn: Promise<unknown> = Promise.resolve();

	private constructor(socket: net.Socket, address: SocketAddress, {record, syncMs = SYNC_MS}: AgentOptions) {
		this.#socket = socket;
		this.address = address;
		this.#record = record;
		this.#syncMs = syncMs;
		this.#listen();
	}

	/** Connects and synchronizes. Throws `UnreachableError` without a socket, {@link AgentError} without an agent behind it. */
	static async open(address: SocketAddress, options: AgentOptions = {}): Promise<GuestAgent> {
		const socket = await connect(address, 'agent socket', options.signal);
		const agent = new GuestAgent(socket, address, options);
		const onAbort = (): void => {
			socket.destroy();
		};
		options.signal?.addEventListener('abort', onAbort, {once: true});
		try {
			await agent.#inTurn(() => agent.#synchronize());
			return agent;
		} catch (error) {
			socket.destroy();
			options.signal?.throwIfAborted();
			throw new AgentError(`no guest agent answers on ${formatAddress(address)}`, {
				cause: error,
				hint:
					'qemu-guest-agent is not running in the guest, hangs, or another client holds its socket. ' +
					'Look in the guest with `systemctl status qemu-guest-agent`.',
			});
		} finally {
			options.signal?.removeEventListener('abort', onAbort);
		}
	}

	/** True once the socket has gone, whoever closed it. A new session is needed then. */
	get isClosed(): boolean {
		return this.#closed !== undefined;
	}

	async info(): Promise<AgentInfo> {
		const info = await this.#execute('guest-info', undefined, QUICK_MS, Info);
		const enabled = info.supported_commands.filter(command => command.enabled);
		return {version: info.version, commands: new Set(enabled.map(command => command.name))};
	}

	/** What the agent believes; another program of the guest may have frozen a file system too. */
	status(): Promise<AgentStatus> {
		return this.#execute('guest-fsfreeze-status', undefined, QUICK_MS, Status);
	}

	/**
	 * Runs the guest's freeze hooks and freezes its file systems: all, or those at `mountpoints`, of which unknown ones
	 * are passed over. Returns how many. A thaw is owed after every call, also if it returns 0, throws or times out.
	 */
	freeze(deadlineMs: number, mountpoints?: readonly string[]): Promise<number> {
		return mountpoints === undefined
			? this.#execute('guest-fsfreeze-freeze', undefined, deadlineMs, Count)
			: this.#execute('guest-fsfreeze-freeze-list', {mountpoints}, deadlineMs, Count);
	}

	/** Thaws what is frozen, whoever froze it, and runs the thaw hooks. Returns how many file systems were thawed. */
	thaw(deadlineMs = THAW_MS): Promise<number> {
		return this.#execute('guest-fsfreeze-thaw', undefined, deadlineMs, Count);
	}

	close(): void {
		this.#socket.destroy();
	}

	#execute<Schema extends v.GenericSchema>(
		command: string,
		args: unknown,
		deadlineMs: number,
		schema: Schema,
	): Promise<v.InferOutput<Schema>> {
		return this.#inTurn(async () => {
			if (!this.#synchronized) await this.#synchronize();
			const request = Buffer.from(`${JSON.stringify({execute: command, arguments: args})}\n`);
			const reply = await this.#exchange(command, request, deadlineMs, () => true);
			if (reply.error) throw new AgentCommandError(command, reply.error.desc);
			const result = v.safeParse(schema, reply.return);
			if (!result.success) throw new AgentError(`the guest agent answered ${command} with something else`);
			return result.output;
		});
	}

	async #synchronize(): Promise<void> {
		const mark = randomInt(2 ** 47);
		const request = {execute: 'guest-sync-delimited', arguments: {id: mark}};
		// The 0xFF makes the agent forget half a command that an earlier client left; its reply comes after another one.
		const bytes = Buffer.concat([Buffer.of(0xff), Buffer.from(`${JSON.stringify(request)}\n`)]);
		await this.#exchange('guest-sync-delimited', bytes, this.#syncMs, reply => reply.return === mark);
		this.#synchronized = true;
	}

	/** Sends, and waits for the reply that is `ours`. A time-out leaves the session to be synchronized again. */
	#exchange(
		command: string,
		bytes: Buffer,
		deadlineMs: number,
		ours: (reply: v.InferOutput<typeof Reply>) => boolean,
	): Promise<v.InferOutput<typeof Reply>> {
		if (this.#closed) return Promise.reject(this.#closed);
		return new Promise((resolve, reject) => {
			const settle = (act: () => void): void => {
				clearTimeout(timer);
				this.#receive = () => undefined;
				this.#fail = () => undefined;
				act();
			};
			const timer = setTimeout(() => {
				this.#synchronized = false;
				settle(() => {
					reject(new AgentTimeoutError(command, deadlineMs));
				});
			}, deadlineMs);
			this.#fail = error => {
				settle(() => {
					reject(error);
				});
			};
			this.#receive = reply => {
				if (ours(reply))
					settle(() => {
						resolve(reply);
					});
			};
			this.#record?.(
				'->',
				bytes
					.subarray(bytes[0] === 0xff ? 1 : 0)
					.toString()
					.trim(),
			);
			this.#socket.write(bytes);
		});
	}

	/** One command after another: the agent has one thread, and a reply carries nothing that tells whose it is. */
	#inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
		const result = this.#turn.then(work);
		this.#turn = result.catch(() => undefined);
		return result;
	}

	#listen(): void {
		const framer = new JsonObjectFramer({maxBytes: MAX_REPLY_BYTES, between: 'skip'});
		let cause: Error | undefined;
		this.#socket.on('data', chunk => {
			try {
				for (const bytes of framer.push(chunk)) {
					const text = bytes.toString();
					this.#record?.('<-', text);
					// What does not parse is an earlier client's: it cannot be the answer to a command of this session.
					const reply = v.safeParse(Reply, parseJson(text));
					if (reply.success) this.#receive(reply.output);
				}
			} catch (error) {
				this.#socket.destroy(asError(error));
			}
		});
		this.#socket.on('error', error => {
			cause = error;
		});
		this.#socket.on('close', () => {
			const why = cause ? `: ${cause.message}` : '';
			this.#closed = new AgentError(`the connection to the guest agent closed${why}`, {cause});
			this.#fail(this.#closed);
		});
	}
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text) as unknown;
	} catch {
		return undefined;
	}
}
