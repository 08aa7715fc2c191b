import net from 'node:net';
import {getSystemErrorMessage} from 'node:util';
import {formatAddress, type SocketAddress} from '../config/address.ts';
import {asError, errnoOf} from '../errors.ts';
import {ByteFeeder, type BytesWanted} from './byte-feeder.ts';
import {NbdError, NbdRequestError} from './errors.ts';
import {negotiate, type Negotiated} from './handshake.ts';
import {encodeRequest} from './messages.ts';
import {COMMAND, COMMAND_FLAG, MAX_PAYLOAD_BYTES, type StatusExtent} from './protocol.ts';
import {ReadReply} from './read-reply.ts';
import {type Answer, readReplies, type Reply} from './replies.ts';
import {StatusReply} from './status-reply.ts';
import {type ClientTls, secureClient} from './tls.ts';

const HANDSHAKE_MS = 10_000;
const CLOSE_MS = 1_000;
const RECEIVE_BYTES = 256 * 1024;
/** What one request for status asks about: its length has 32 bits, unless headers are extended. A multiple of any cluster. */
const MAX_STATUS_BYTES = {structured: 0x8000_0000, extended: Number.MAX_SAFE_INTEGER};

const MAX_LENGTH = 0xffff_ffff;
const DOING: Partial<Record<number, string>> = {
	[COMMAND.read]: 'read',
	[COMMAND.write]: 'write',
	[COMMAND.writeZeroes]: 'write zeroes to',
};

/** What a write is answered with: nothing but that it is done. */
const DONE: Answer = {
	needs: 'word',
	*take(type) {
		throw new NbdError(`the server answers a write with chunk ${type}`);
	},
};

export interface NbdOptions {
	/** Such as `base:allocation`. Connecting fails if the export lacks one. */
	readonly metaContexts?: readonly string[];
	/** Connecting fails if the server does not have it. Without it, nothing is encrypted. */
	readonly tls?: ClientTls | undefined;
	/** Aborting ends the connection, whenever: all that waits for it rejects with the reason. */
	readonly signal?: AbortSignal | undefined;
}

interface Waiting extends Reply {
	readonly reject: (error: Error) => void;
}

/**
 * Reads an export of an NBD server that is not trusted, and writes to one. Many requests may be under way at once. A request has no deadline,
 * since storage may take its time; the caller has a signal. The caller closes it.
 */
export class NbdClient {
	readonly #exportName: string;
	readonly #options: NbdOptions;
	readonly #where: string;
	readonly #plain: net.Socket;
	readonly #closed: Promise<void>;
	readonly #waiting = new Map<bigint, Waiting>();
	readonly #feeder: ByteFeeder;
	readonly #opened = Promise.withResolvers<Negotiated>();
	/** The plain one, or what goes over it with TLS. */
	#socket: net.Socket;
	#negotiated: Negotiated = {sizeBytes: 0, reads: 'parts', style: 'structured', contexts: new Map()};
	#failure: Error | undefined;
	#lastCookie = 0n;

	private constructor(address: SocketAddress, exportName: string, options: NbdOptions) {
		const {tls, signal} = options;
		this.#exportName = exportName;
		this.#options = options;
		this.#where = `NBD export ${exportName} on ${'unix' in address ? address.unix : formatAddress(address)}`;
		const onData = (count: number, bytes: Uint8Array): boolean => {
			this.#receive(bytes.subarray(0, count));
			return true;
		};
		// One buffer for all that arrives: the parser copies out of it at once. What becomes TLS cannot have one.
		const onread = tls ? {} : {onread: {buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES), callback: onData}};
		const where = 'unix' in address ? {path: address.unix} : {host: address.host, port: address.port, noDelay: true};
		this.#plain = net.connect({...where, ...onread});
		this.#socket = this.#plain;
		if (tls) {
			this.#plain.on('data', chunk => {
				this.#receive(chunk);
			});
		}
		const onAbort = (): void => {
			this.#fail(asError(signal?.reason));
		};
		signal?.addEventListener('abort', onAbort, {once: true});
		this.#plain.on('error', error => {
			this.#fail(this.#error(errnoOf(error) === 'ENOENT' ? 'the socket does not exist' : error.message, error));
		});
		this.#plain.on('end', () => {
			this.#fail(this.#error('the server closed the connection'));
		});
		this.#closed = new Promise(resolve => {
			this.#plain.once('close', () => {
				signal?.removeEventListener('abort', onAbort);
				this.#fail(this.#error('the connection is closed'));
				resolve();
			});
		});
		this.#opened.promise.catch(() => undefined);
		this.#feeder = new ByteFeeder(this.#conversation());
	}

	/** Throws {@link NbdError} if the export cannot be opened within 10 s. */
	static async connect(address: SocketAddress, exportName: string, options: NbdOptions = {}): Promise<NbdClient> {
		options.signal?.throwIfAborted();
		const client = new NbdClient(address, exportName, options);
		const deadline = setTimeout(() => {
			client.#fail(client.#error(`the server did not open it within ${HANDSHAKE_MS / 1000} s`));
		}, HANDSHAKE_MS);
		try {
			client.#negotiated = await client.#opened.promise;
		} finally {
			clearTimeout(deadline);
		}
		return client;
	}

	get sizeBytes(): number {
		return this.#negotiated.sizeBytes;
	}

	/** At most 32 MiB. `into` has to have the length of what is read, and is the client's until the promise is settled. */
	async read(offset: number, length: number, into: Buffer = Buffer.allocUnsafeSlow(length)): Promise<Buffer> {
		this.#checkRange(offset, length);
		if (length > MAX_PAYLOAD_BYTES) throw new RangeError(`a read of ${length} bytes`);
		if (into.length !== length) throw new RangeError(`a buffer of ${into.length} bytes for ${length}`);
		const reply = new ReadReply(offset, into);
		return await this.#request(COMMAND.read, offset, length, reply, () => {
			reply.checkWhole();
			return into;
		});
	}

	/**
	 * By context, what the beginning of the range is like, at least its first byte and at most all of it; one context may tell
	 * of more than another.
	 */
	async blockStatus(offset: number, length: number): Promise<ReadonlyMap<string, readonly StatusExtent[]>> {
		this.#checkRange(offset, length);
		const {style, contexts} = this.#negotiated;
		if (contexts.size === 0) throw new RangeError('no contexts were agreed on');
		const within = Math.min(length, MAX_STATUS_BYTES[style]);
		const reply = new StatusReply(style, within, contexts);
		return await this.#request(COMMAND.blockStatus, offset, within, reply, () => reply.whole());
	}

	/** At most 32 MiB. `data` is the client's until the promise is settled. */
	async write(offset: number, data: Buffer): Promise<void> {
		const {length} = data;
		this.#checkRange(offset, length);
		if (length > MAX_PAYLOAD_BYTES) throw new RangeError(`a write of ${length} bytes`);
		await this.#request(COMMAND.write, offset, length, DONE, () => undefined, data);
	}

	/** Less than 4 GiB. What the server can store so it stores as a hole. */
	async writeZeroes(offset: number, length: number): Promise<void> {
		this.#checkRange(offset, length);
		if (length > MAX_LENGTH) throw new RangeError(`zeroes of ${length} bytes`);
		await this.#request(COMMAND.writeZeroes, offset, length, DONE, () => undefined);
	}

	/** Takes leave of the server, for as long as that takes a moment. What still waits fails. */
	async close(): Promise<void> {
		if (!this.#failure) {
			const leave = {command: COMMAND.disconnect, flags: 0, cookie: 0n, offset: 0, length: 0};
			this.#socket.write(encodeRequest(this.#negotiated.style, leave));
			this.#socket.destroySoon();
			this.#rejectAll(this.#error('the connection is closed'));
		}
		const patience = setTimeout(() => this.#plain.destroy(), CLOSE_MS);
		await this.#closed;
		clearTimeout(patience);
	}

	#request<Result>(
		command: number,
		offset: number,
		length: number,
		answer: Answer,
		finish: () => Result,
		data?: Buffer,
	): Promise<Result> {
		return new Promise<Result>((resolve, reject) => {
			if (this.#failure) {
				reject(this.#failure);
				return;
			}
			const cookie = ++this.#lastCookie;
			this.#waiting.set(cookie, {
				answer,
				finish: () => {
					resolve(finish());
				},
				refuse: (errno, text) => {
					const doing = DOING[command] ?? 'tell the status of';
					const why = text || getSystemErrorMessage(-errno);
					reject(new NbdRequestError(`${this.#where}: cannot ${doing} ${length} bytes at ${offset}: ${why}`, errno));
				},
				reject,
			});
			// QEMU closes the connection if it cannot read a part of what it sends in parts; a whole is refused
			// (nbd/server.c nbd_co_send_sparse_read).
			const whole = command === COMMAND.read && this.#negotiated.reads === 'whole';
			const payload = data && this.#negotiated.style === 'extended' ? COMMAND_FLAG.payloadLength : 0;
			const flags = (whole ? COMMAND_FLAG.dontFragment : 0) | payload;
			this.#socket.cork();
			this.#socket.write(encodeRequest(this.#negotiated.style, {command, flags, cookie, offset, length}));
			if (data) this.#socket.write(data);
			this.#socket.uncork();
		});
	}

	#checkRange(offset: number, length: number): void {
		if (!(offset >= 0 && length > 0 && offset + length <= this.sizeBytes)) {
			throw new RangeError(`${this.#where}: no ${length} bytes at ${offset} of ${this.sizeBytes}`);
		}
	}

	*#conversation(): BytesWanted<never> {
		const {metaContexts = [], tls} = this.#options;
		const startTls = tls && (() => this.#startTls(tls));
		const asked = {exportName: this.#exportName, metaContexts, startTls};
		const negotiated = yield* negotiate(asked, bytes => this.#socket.write(bytes));
		this.#opened.resolve(negotiated);
		return yield* readReplies(negotiated.style, this.#waiting);
	}

	/** What came in the clear after the server's word that TLS begins could be anybody's. */
	async #startTls(tls: ClientTls): Promise<void> {
		if (this.#feeder.backlog > 0) throw new NbdError('the server does not wait for TLS');
		this.#plain.removeAllListeners('data');
		this.#plain.removeAllListeners('end');
		const secure = await secureClient(this.#plain, tls);
		this.#socket = secure;
		secure.on('error', (error: Error) => {
			this.#fail(this.#error(error.message, error));
		});
		secure.on('end', () => {
			this.#fail(this.#error('the server closed the connection'));
		});
		secure.on('data', (chunk: Buffer) => {
			this.#receive(chunk);
		});
	}

	#receive(bytes: Uint8Array): void {
		if (this.#failure) return;
		const onError = (error: unknown): void => {
			this.#fail(this.#error(asError(error).message, error));
		};
		try {
			// Only for TLS, before which nothing else may come.
			this.#feeder.push(bytes)?.until.then(() => {
				this.#receive(Buffer.alloc(0));
			}, onError);
		} catch (error) {
			onError(error);
		}
	}

	#fail(error: Error): void {
		this.#rejectAll(error);
		this.#socket.destroy();
		this.#plain.destroy();
	}

	#rejectAll(error: Error): void {
		if (this.#failure) return;
		this.#failure = error;
		this.#opened.reject(error);
		for (const {reject} of this.#waiting.values()) reject(error);
		this.#waiting.clear();
	}

	#error(why: string, cause?: unknown): NbdError {
		return new NbdError(`${this.#where}: ${why}`, {cause});
	}
}
