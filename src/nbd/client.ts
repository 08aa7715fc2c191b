import net from 'node:net';
import {getSystemErrorMessage} from 'node:util';
import {asError, errnoOf} from '../errors.ts';
import {ByteFeeder, type BytesWanted} from './byte-feeder.ts';
import {NbdError, NbdRequestError} from './errors.ts';
import {type AskedOfServer, negotiate, type Negotiated} from './handshake.ts';
import {COMMAND, encodeRequest, MAX_READ_BYTES, MAX_STATUS_BYTES, type StatusExtent} from './protocol.ts';
import {ReadReply} from './read-reply.ts';
import {readReplies, type Reply} from './replies.ts';
import {StatusReply} from './status-reply.ts';

const HANDSHAKE_MS = 10_000;
const CLOSE_MS = 1_000;
const RECEIVE_BYTES = 256 * 1024;

export interface NbdOptions {
	/** Such as `base:allocation`. Connecting fails if the export lacks one. */
	readonly metaContexts?: readonly string[];
	/** Aborting ends the connection, whenever: all that waits for it rejects with the reason. */
	readonly signal?: AbortSignal | undefined;
}

interface Waiting extends Reply {
	readonly reject: (error: Error) => void;
}

/**
 * Reads an export of an NBD server that is not trusted. Many requests may be under way at once. A request has no deadline,
 * since storage may take its time; the caller has a signal. The caller closes it.
 */
export class NbdClient {
	readonly #asked: AskedOfServer;
	readonly #where: string;
	readonly #socket: net.Socket;
	readonly #closed: Promise<void>;
	readonly #waiting = new Map<number, Waiting>();
	readonly #feeder: ByteFeeder;
	readonly #opened = Promise.withResolvers<Negotiated>();
	#negotiated: Negotiated = {sizeBytes: 0, reads: 'parts', contexts: new Map()};
	#failure: Error | undefined;
	#lastCookie = 0;

	private constructor(socketPath: string, asked: AskedOfServer, signal: AbortSignal | undefined) {
		this.#asked = asked;
		this.#where = `NBD export ${asked.exportName} on ${socketPath}`;
		const onData = (count: number, bytes: Uint8Array): boolean => {
			this.#receive(bytes.subarray(0, count));
			return true;
		};
		// One buffer for all that arrives: the parser copies out of it at once.
		const onread = {buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES), callback: onData};
		this.#socket = net.connect({path: socketPath, onread});
		const onAbort = (): void => {
			this.#fail(asError(signal?.reason));
		};
		signal?.addEventListener('abort', onAbort, {once: true});
		this.#socket.on('error', error => {
			this.#fail(this.#error(errnoOf(error) === 'ENOENT' ? 'the socket does not exist' : error.message, error));
		});
		this.#socket.on('end', () => {
			this.#fail(this.#error('the server closed the connection'));
		});
		this.#closed = new Promise(resolve => {
			this.#socket.once('close', () => {
				signal?.removeEventListener('abort', onAbort);
				this.#fail(this.#error('the connection is closed'));
				resolve();
			});
		});
		this.#opened.promise.catch(() => undefined);
		this.#feeder = new ByteFeeder(this.#conversation());
	}

	/** Throws {@link NbdError} if the export cannot be opened within 10 s. */
	static async connect(
		socketPath: string,
		exportName: string,
		{metaContexts = [], signal}: NbdOptions = {},
	): Promise<NbdClient> {
		signal?.throwIfAborted();
		const client = new NbdClient(socketPath, {exportName, metaContexts}, signal);
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
		this.#checkRange(offset, length, MAX_READ_BYTES);
		if (into.length !== length) throw new RangeError(`a buffer of ${into.length} bytes for ${length}`);
		const reply = new ReadReply(offset, into);
		return await this.#request(COMMAND.read, offset, length, reply, () => {
			reply.checkWhole();
			return into;
		});
	}

	/**
	 * At most 2 GiB. By context, what the beginning of the range is like, at least its first byte and at most all of it;
	 * one context may tell of more than another.
	 */
	async blockStatus(offset: number, length: number): Promise<ReadonlyMap<string, readonly StatusExtent[]>> {
		this.#checkRange(offset, length, MAX_STATUS_BYTES);
		if (this.#asked.metaContexts.length === 0) throw new RangeError('no contexts were agreed on');
		const reply = new StatusReply(length, this.#negotiated.contexts);
		return await this.#request(COMMAND.blockStatus, offset, length, reply, () => reply.whole());
	}

	/** Takes leave of the server, for as long as that takes a moment. What still waits fails. */
	async close(): Promise<void> {
		if (!this.#failure) {
			this.#socket.write(encodeRequest({command: COMMAND.disconnect, cookie: 0, offset: 0, length: 0}));
			this.#socket.destroySoon();
			this.#rejectAll(this.#error('the connection is closed'));
		}
		const patience = setTimeout(() => this.#socket.destroy(), CLOSE_MS);
		await this.#closed;
		clearTimeout(patience);
	}

	#request<Result>(
		command: number,
		offset: number,
		length: number,
		reply: Pick<Reply, 'take'>,
		finish: () => Result,
	): Promise<Result> {
		return new Promise<Result>((resolve, reject) => {
			if (this.#failure) {
				reject(this.#failure);
				return;
			}
			const cookie = ++this.#lastCookie;
			this.#waiting.set(cookie, {
				take: (type, bytes) => reply.take(type, bytes),
				finish: () => {
					resolve(finish());
				},
				refuse: (errno, text) => {
					const doing = command === COMMAND.read ? 'read' : 'tell the status of';
					const why = text || getSystemErrorMessage(-errno);
					reject(new NbdRequestError(`${this.#where}: cannot ${doing} ${length} bytes at ${offset}: ${why}`, errno));
				},
				reject,
			});
			// QEMU closes the connection if it cannot read a part of what it sends in parts; a whole is refused
			// (nbd/server.c nbd_co_send_sparse_read).
			const answer = command === COMMAND.read ? this.#negotiated.reads : 'parts';
			this.#socket.write(encodeRequest({command, cookie, offset, length, answer}));
		});
	}

	#checkRange(offset: number, length: number, limit: number): void {
		if (!(offset >= 0 && length > 0 && length <= limit && offset + length <= this.sizeBytes)) {
			throw new RangeError(`${this.#where}: no ${length} bytes at ${offset} of ${this.sizeBytes}`);
		}
	}

	*#conversation(): BytesWanted<never> {
		const negotiated = yield* negotiate(this.#asked, bytes => this.#socket.write(bytes));
		this.#opened.resolve(negotiated);
		return yield* readReplies(this.#waiting);
	}

	#receive(bytes: Uint8Array): void {
		if (this.#failure) return;
		try {
			this.#feeder.push(bytes);
		} catch (error) {
			this.#fail(this.#error(asError(error).message, error));
		}
	}

	#fail(error: Error): void {
		this.#rejectAll(error);
		this.#socket.destroy();
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
