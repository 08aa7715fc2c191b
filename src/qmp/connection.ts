import type net from 'node:net';
import {filter, type Observable, Subject} from 'rxjs';
import {formatAddress, type SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {deadlineMs} from './deadlines.ts';
import {QmpDisconnectedError, QmpProtocolError, UnreachableError} from './errors.ts';
import {JsonObjectFramer} from './framer.ts';
import {PendingCommands} from './pending-commands.ts';
import {type Greeting, parseMessage} from './messages.ts';
import type {
	QmpCommands,
	QmpEventOf,
	QmpEvents,
	QmpLaterCommands,
	QmpOutOfBandCommands,
	QmpVersionInfo,
} from './schema.ts';
import {connect} from './socket.ts';
import type {RecordMessage} from './transcript.ts';

const GREETING_MS = 4_000;

/**
 * With `oob` QEMU queues eight commands and then stops reading (monitor/qmp.c QMP_REQ_QUEUE_LEN_MAX); one place stays
 * free, so that an out-of-band command is always read.
 */
const MAX_IN_FLIGHT = 7;

type OwnCommands = QmpCommands & QmpLaterCommands;

/** None where there are none, and left out if they may all be. */
type Arguments<Entry> = Entry extends {arguments: infer Given}
	? [Given] extends [undefined]
		? []
		: undefined extends Given
			? [args?: Exclude<Given, undefined>]
			: [args: Given]
	: never;

type Return<Entry> = Entry extends {return: infer Returned} ? Returned : never;

export interface QmpOptions {
	readonly signal?: AbortSignal | undefined;
	readonly record?: RecordMessage | undefined;
	/** How the peer is called in messages. */
	readonly what?: string;
}

/**
 * One negotiated QMP session. QEMU serves one client a monitor, and keeps jobs, nodes and exports when the client
 * leaves. Whoever opens it closes it. The types of commands and events are those that this program uses, unless others are
 * given, such as those that `quiesce qmp types` makes of all that a QEMU has.
 */
export class QmpConnection<Commands extends object = OwnCommands, Events extends object = QmpEvents> {
	/**
	 * Hot. Errors with {@link QmpDisconnectedError} when the socket goes, also for those who come later. Whoever subscribes as soon as
	 * the connection is open misses none.
	 */
	readonly events$: Observable<QmpEventOf<Events>>;
	/** Where it listens, as the operator gave it. */
	readonly name: string;

	readonly #socket: net.Socket;
	readonly #what: string;
	readonly #record: RecordMessage | undefined;
	readonly #events = new Subject<QmpEventOf<Events>>();
	/** Those that came before anybody could subscribe. */
	#early: QmpEventOf<Events>[] | undefined = [];
	readonly #pending = new PendingCommands();
	readonly #waiting: {readonly id: string; readonly message: string}[] = [];
	readonly #greeting = Promise.withResolvers<Greeting>();
	readonly #gone = Promise.withResolvers<undefined>();
	#version: QmpVersionInfo | undefined;
	#negotiated = false;
	#oob = false;
	#left = false;
	#closed: QmpDisconnectedError | undefined;

	private constructor(socket: net.Socket, name: string, options: QmpOptions) {
		this.#socket = socket;
		this.name = name;
		this.#what = options.what ?? 'monitor';
		this.#record = options.record;
		this.events$ = this.#events.asObservable();
		this.#listen();
	}

	/**
	 * Connects and negotiates, with `oob` where it is offered. Throws {@link UnreachableError} if nothing or nobody
	 * answers, {@link QmpProtocolError} if what answers is not QMP.
	 */
	static async open<Commands extends object = OwnCommands, Events extends object = QmpEvents>(
		address: SocketAddress,
		options: QmpOptions = {},
	): Promise<QmpConnection<Commands, Events>> {
		const socket = await connect(address, options.what ?? 'monitor', options.signal);
		return QmpConnection.over(socket, formatAddress(address), options);
	}

	/** As {@link open}, on a socket that is connected, and which is closed with the session. `name` is for messages. */
	static async over<Commands extends object = OwnCommands, Events extends object = QmpEvents>(
		socket: net.Socket,
		name: string,
		options: QmpOptions = {},
	): Promise<QmpConnection<Commands, Events>> {
		const connection = new QmpConnection<Commands, Events>(socket, name, options);
		try {
			await connection.#negotiate(options.signal);
			setImmediate(() => {
				connection.#releaseEarly();
			});
			return connection;
		} catch (error) {
			socket.destroy();
			throw error;
		}
	}

	get version(): QmpVersionInfo {
		if (!this.#version) throw new Error('the session is not negotiated');
		return this.#version;
	}

	/** Whether commands may go past QEMU's queue. */
	get hasOutOfBand(): boolean {
		return this.#oob;
	}

	/** True once the socket has gone, whoever closed it. */
	get isClosed(): boolean {
		return this.#closed !== undefined;
	}

	/**
	 * Sends once. Rejects with `QmpCommandError` if QEMU refused and nothing happened, with `QmpOutcomeUnknownError` if
	 * no answer came. QEMU may emit the events a command causes before its reply.
	 */
	execute<Name extends keyof Commands & string>(
		command: Name,
		...[args]: Arguments<Commands[Name]>
	): Promise<Return<Commands[Name]>> {
		return this.#request('execute', command, args, deadlineMs(command)) as Promise<Return<Commands[Name]>>;
	}

	/** As {@link execute}, with any command. */
	executeAny(
		command: string,
		args?: Readonly<Record<string, unknown>>,
		timeoutMs = deadlineMs(command),
	): Promise<unknown> {
		return this.#request('execute', command, args, timeoutMs);
	}

	/** As {@link execute}, past QEMU's queue. Rejects at once where the monitor has no `oob`. */
	executeOutOfBand<Name extends keyof QmpOutOfBandCommands>(
		command: Name,
		...[args]: Arguments<QmpOutOfBandCommands[Name]>
	): Promise<QmpOutOfBandCommands[Name]['return']> {
		if (!this.#oob) {
			return Promise.reject(new UnreachableError(`this ${this.#what} takes no out-of-band commands`));
		}
		return this.#request('exec-oob', command, args, 5_000) as Promise<QmpOutOfBandCommands[Name]['return']>;
	}

	/** Hot, as {@link events$}. */
	on<Name extends keyof Events & string>(name: Name): Observable<Extract<QmpEventOf<Events>, {event: Name}>> {
		return this.events$.pipe(
			filter((event): event is Extract<QmpEventOf<Events>, {event: Name}> => event.event === name),
		);
	}

	/** Resolves once the socket is closed. What runs in QEMU goes on. */
	async close(): Promise<void> {
		this.#left = true;
		this.#socket.destroy();
		await this.#gone.promise;
	}

	async #negotiate(signal?: AbortSignal): Promise<void> {
		const {promise: stopped, reject} = Promise.withResolvers<never>();
		const onAbort = (): void => {
			reject(asError(signal?.reason));
		};
		signal?.throwIfAborted();
		signal?.addEventListener('abort', onAbort, {once: true});
		const timer = setTimeout(() => {
			reject(this.#silent());
		}, GREETING_MS);
		try {
			const greeting = await Promise.race([this.#greeting.promise, stopped]);
			this.#version = greeting.version;
			this.#oob = greeting.capabilities.includes('oob');
			await Promise.race([this.executeAny('qmp_capabilities', {enable: this.#oob ? ['oob'] : []}), stopped]);
			this.#negotiated = true;
		} finally {
			clearTimeout(timer);
			signal?.removeEventListener('abort', onAbort);
		}
	}

	#request(verb: 'execute' | 'exec-oob', command: string, args: unknown, deadline: number): Promise<unknown> {
		if (this.#closed) return Promise.reject(this.#closed);
		return new Promise((resolve, reject) => {
			const id = this.#pending.add(command, deadline, {resolve, reject});
			const message = JSON.stringify({[verb]: command, arguments: args, id});
			if (verb === 'exec-oob' || this.#pending.inFlight < MAX_IN_FLIGHT) this.#send(id, message);
			else this.#waiting.push({id, message});
		});
	}

	#send(id: string, message: string): void {
		if (!this.#pending.take(id)) return;
		this.#record?.('->', message);
		this.#socket.write(`${message}\n`);
	}

	#sendWaiting(): void {
		while (this.#pending.inFlight < MAX_IN_FLIGHT) {
			const next = this.#waiting.shift();
			if (!next) return;
			this.#send(next.id, next.message);
		}
	}

	#listen(): void {
		const framer = new JsonObjectFramer();
		let cause: Error | undefined;
		// Waited for by `open`, which may have failed for another reason by then.
		this.#greeting.promise.catch(() => undefined);
		this.#socket.on('data', chunk => {
			try {
				for (const bytes of framer.push(chunk)) this.#dispatch(bytes.toString());
			} catch (error) {
				this.#socket.destroy(asError(error));
			}
		});
		this.#socket.on('error', error => {
			cause = error;
		});
		this.#socket.on('close', () => {
			this.#end(cause);
		});
	}

	#dispatch(text: string): void {
		this.#record?.('<-', text);
		const message = parseMessage(text);
		switch (message.kind) {
			case 'greeting':
				this.#greeting.resolve(message.greeting);
				break;
			case 'event':
				this.#emit(message.event as unknown as QmpEventOf<Events>);
				break;
			case 'reply':
				if (this.#pending.settle(message.reply)) this.#sendWaiting();
				break;
			case 'error-without-id':
				// Until we have negotiated it may be the answer to the client before us. After that the server could not
				// read what we sent: which command it was, and what became of it, is unknown.
				if (this.#negotiated) throw new QmpProtocolError(`QEMU could not read a command: ${message.description}`);
				break;
			case 'other':
		}
	}

	#emit(event: QmpEventOf<Events>): void {
		if (this.#early) this.#early.push(event);
		else this.#events.next(event);
	}

	#releaseEarly(): void {
		const early = this.#early ?? [];
		this.#early = undefined;
		for (const event of early) this.#events.next(event);
	}

	#end(cause: Error | undefined): void {
		this.#releaseEarly();
		this.#closed = new QmpDisconnectedError(`${this.#what} ${this.name} ${this.#fate(cause)}`, {cause});
		const error = this.#negotiated ? this.#closed : this.#notNegotiated(cause);
		this.#greeting.reject(error);
		this.#pending.rejectAll(error);
		this.#waiting.length = 0;
		this.#events.error(this.#closed);
		this.#gone.resolve(undefined);
	}

	#fate(cause: Error | undefined): string {
		if (cause) return `was lost: ${cause.message}`;
		return this.#left ? 'was closed by us' : 'closed: QEMU has ended or dropped the connection';
	}

	/** The greeting needs only the monitor's thread, the answer to `qmp_capabilities` QEMU's main loop. */
	#silent(): UnreachableError {
		if (this.#version) {
			return new UnreachableError(`${this.name} greeted us but did not answer qmp_capabilities`, {
				hint: 'QEMU may hang on its storage; look at its log.',
			});
		}
		return new UnreachableError(`monitor busy: ${this.name} accepted us but sent no greeting`, {
			hint:
				'Another client holds this monitor (QEMU serves one at a time), or it is not a QMP socket. ' +
				'Close the other client, or give the VM a second monitor with another -qmp option.',
		});
	}

	#notNegotiated(cause: Error | undefined): Error {
		if (cause instanceof QmpProtocolError) {
			return new QmpProtocolError(`${this.name} is not a QMP monitor: ${cause.message}`, {cause});
		}
		if (this.#version) return new UnreachableError(`${this.name} closed the connection after its greeting`, {cause});
		return new UnreachableError(`${this.name} closed the connection without a QMP greeting`, {
			cause,
			hint: 'Is it the socket of a monitor in control mode (-qmp, or -mon …,mode=control)?',
		});
	}
}
