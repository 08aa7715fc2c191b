import type net from 'node:net';
import {asError} from '../errors.ts';
import {readInOneBuffer} from './accepted-socket.ts';
import {ByteFeeder, type BytesWanted} from './byte-feeder.ts';
import {NbdError} from './errors.ts';
import type {NbdExport} from './export.ts';
import {InFlight, type InFlightLimits} from './in-flight.ts';
import {offer} from './server-handshake.ts';
import {secureServer, type ServerTls} from './tls.ts';
import {transmit} from './transmission.ts';

export interface ConnectionOptions {
	readonly exports: ReadonlyMap<string, NbdExport>;
	readonly limits: InFlightLimits;
	readonly handshakeMs: number;
	readonly tls?: ServerTls | undefined;
	/** Told why a connection ended, if its client did not end it. */
	readonly report: (error: NbdError) => void;
}

/** One client of a server. It is not trusted: whatever it sends ends this connection at the worst. */
export class ServerConnection {
	/** Resolves when it has ended, and no request of it is with an export any more. */
	readonly closed: Promise<void>;
	readonly #options: ConnectionOptions;
	readonly #inFlight: InFlight;
	readonly #feeder: ByteFeeder;
	readonly #deadline: NodeJS.Timeout;
	readonly #plain: net.Socket;
	/** The same, or what goes over it with TLS. */
	#socket: net.Socket;
	#state: 'open' | 'over' = 'open';

	/** The socket is as accepted by a server with `pauseOnConnect`. */
	constructor(accepted: net.Socket, options: ConnectionOptions) {
		this.#options = options;
		const onBytes = (bytes: Uint8Array): void => {
			this.#receive(bytes);
		};
		// What becomes TLS cannot have one.
		const socket = options.tls ? accepted.on('data', onBytes) : readInOneBuffer(accepted, onBytes);
		this.#plain = socket;
		this.#socket = socket;
		this.#inFlight = new InFlight(options.limits);
		socket.setNoDelay(true);
		const ended = Promise.withResolvers<undefined>();
		socket.once('close', () => {
			this.#end(new NbdError('the client went away'));
			ended.resolve(undefined);
		});
		this.#deadline = setTimeout(() => {
			this.#end(new NbdError(`the client did not choose an export within ${options.handshakeMs / 1000} s`));
		}, options.handshakeMs);
		this.#feeder = new ByteFeeder(this.#conversation());
		this.#onError(socket);
		socket.resume();
		this.closed = ended.promise.then(() => this.#inFlight.idle());
	}

	/** Memory for requests that is taken. */
	get bytesHeld(): number {
		return this.#inFlight.bytesHeld;
	}

	/** Ends it at once; what is with the export may still be carried out. */
	destroy(): void {
		this.#end(undefined);
	}

	*#conversation(): BytesWanted<void> {
		const {exports, tls} = this.#options;
		const session = yield* offer({
			exports,
			send: bytes => this.#socket.write(bytes),
			...(tls && {startTls: () => this.#startTls(tls)}),
		});
		clearTimeout(this.#deadline);
		if (session) {
			yield* transmit({
				session,
				inFlight: this.#inFlight,
				send: (parts, sent) => {
					this.#send(parts, sent);
				},
			});
		}
		void this.#takeLeave();
	}

	/** Answers what is still under way first. */
	async #takeLeave(): Promise<void> {
		await this.#inFlight.idle();
		this.#socket.end(() => {
			this.#end(undefined);
		});
	}

	#onError(socket: net.Socket): void {
		socket.on('error', error => {
			this.#end(new NbdError(`the connection failed: ${error.message}`, {cause: error}));
		});
	}

	#receive(bytes: Uint8Array): void {
		if (this.#state === 'over') return;
		try {
			const held = this.#feeder.push(bytes);
			if (!held) return;
			// Nothing more is read from the client until there is room for it.
			this.#socket.pause();
			held.until.then(
				() => {
					this.#socket.resume();
					this.#receive(held.rest);
				},
				(error: unknown) => {
					this.#fail(error);
				},
			);
		} catch (error) {
			this.#fail(error);
		}
	}

	#send(parts: readonly Buffer[], sent: () => void): void {
		const socket = this.#socket;
		socket.cork();
		for (const part of parts.slice(0, -1)) socket.write(part);
		const last = parts.at(-1);
		if (last) socket.write(last, sent);
		socket.uncork();
	}

	/** What came in the clear after the request for TLS could be anybody's. */
	async #startTls(tls: ServerTls): Promise<void> {
		if (this.#feeder.backlog > 0) throw new NbdError('the client does not wait for TLS');
		this.#plain.removeAllListeners('data');
		const secure = await secureServer(this.#plain, tls);
		this.#socket = secure;
		this.#onError(secure);
		secure.on('data', (chunk: Buffer) => {
			this.#receive(chunk);
		});
	}

	#fail(error: unknown): void {
		this.#end(error instanceof NbdError ? error : new NbdError(asError(error).message, {cause: error}));
	}

	#end(why: NbdError | undefined): void {
		if (this.#state === 'over') return;
		this.#state = 'over';
		clearTimeout(this.#deadline);
		this.#feeder.end();
		this.#socket.destroy();
		this.#plain.destroy();
		if (why) this.#options.report(why);
	}
}
