import {once} from 'node:events';
import net from 'node:net';
import type {SocketAddress} from '../config/address.ts';
import type {NbdError} from './errors.ts';
import type {NbdExport} from './export.ts';
import type {InFlightLimits} from './in-flight.ts';
import {isExportName} from './server-handshake.ts';
import {ServerConnection} from './server-connection.ts';
import type {ServerTls} from './tls.ts';

const MIB = 1024 * 1024;
const DEFAULT_CONNECTIONS = 16;
const DEFAULT_LIMITS: InFlightLimits = {requests: 128, bytes: 32 * MIB};
const HANDSHAKE_MS = 10_000;

export interface NbdServerOptions {
	/** Clients have to use it then. */
	readonly tls?: ServerTls;
	/** Any more are turned away at once. 16 if not given. */
	readonly maxConnections?: number;
	/**
	 * Of each connection; a client that has reached them is not read from until something is done. 128 requests and 32 MiB
	 * if not given. All connections together hold no more memory for data than {@link maxConnections} times that.
	 */
	readonly limits?: InFlightLimits;
	/** For so long a client may take to choose an export. 10 s if not given. */
	readonly handshakeMs?: number;
	/** Told of clients that do not keep to the protocol, or go away without a word. */
	readonly report?: (error: NbdError) => void;
	/** Aborting closes the server. */
	readonly signal?: AbortSignal | undefined;
}

export interface NbdServer extends AsyncDisposable {
	/** With the port, if any was asked for. */
	readonly address: SocketAddress;
	/** Memory for requests that is taken, in bytes. */
	readonly bytesHeld: number;
	/** Ends all connections. Resolves when no request is with an export any more. */
	close(): Promise<void>;
}

/**
 * Shows exports to NBD clients, by their names; the empty name is what a client gets that gives none. A Unix socket can be
 * opened by our own user only. With TCP, port 0 is any. Rejects with the system's error if it cannot listen there.
 */
export async function serveNbd(
	address: SocketAddress,
	exports: ReadonlyMap<string, NbdExport>,
	options: NbdServerOptions = {},
): Promise<NbdServer> {
	const {tls, limits = DEFAULT_LIMITS, handshakeMs = HANDSHAKE_MS, report = () => undefined, signal} = options;
	signal?.throwIfAborted();
	for (const name of exports.keys()) if (!isExportName(name)) throw new RangeError(`'${name}' cannot name an export`);
	const connections = new Set<ServerConnection>();
	const server = net.createServer({pauseOnConnect: true}, socket => {
		const connection = new ServerConnection(socket, {exports, limits, handshakeMs, tls, report});
		connections.add(connection);
		void connection.closed.then(() => connections.delete(connection));
	});
	server.maxConnections = options.maxConnections ?? DEFAULT_CONNECTIONS;

	const stopped = Promise.withResolvers<undefined>();
	server.once('close', () => {
		stopped.resolve(undefined);
	});
	const close = async (): Promise<void> => {
		signal?.removeEventListener('abort', onAbort);
		if (server.listening) server.close();
		for (const connection of connections) connection.destroy();
		await Promise.all([...[...connections].map(({closed}) => closed), stopped.promise]);
	};
	const onAbort = (): void => void close();

	await listen(server, address);
	signal?.addEventListener('abort', onAbort, {once: true});
	return {
		address: boundAddress(server, address),
		get bytesHeld() {
			return [...connections].reduce((sum, {bytesHeld}) => sum + bytesHeld, 0);
		},
		close,
		[Symbol.asyncDispose]: close,
	};
}

async function listen(server: net.Server, address: SocketAddress): Promise<void> {
	const listening = once(server, 'listening');
	if ('unix' in address) {
		// The socket is there at once when this returns, so that nobody else's files are made with this mask.
		const mask = process.umask(0o177);
		try {
			server.listen({path: address.unix});
		} finally {
			process.umask(mask);
		}
	} else {
		server.listen({host: address.host, port: address.port});
	}
	await listening;
}

function boundAddress(server: net.Server, address: SocketAddress): SocketAddress {
	const bound = server.address();
	if ('unix' in address || bound === null || typeof bound === 'string') return address;
	return {host: address.host, port: bound.port};
}
