import type net from 'node:net';
import tls from 'node:tls';
import type {SocketAddress} from '../config/address.ts';
import {UsageError} from '../errors.ts';

/** How a server shows who it is, and whom it lets in. Certificates and keys are in PEM. */
export type ServerTls =
	/** With `clientAuthority`, only clients whose certificate it has signed. */
	| {
			readonly kind: 'certificate';
			readonly certificate: string | Buffer;
			readonly key: string | Buffer;
			readonly clientAuthority?: string | Buffer;
	  }
	/** Pre-shared keys by the names of the clients. */
	| {readonly kind: 'psk'; readonly keys: ReadonlyMap<string, Buffer>};

/** How a client tells whether it is the right server, and shows who it is itself. */
export type ClientTls =
	| {
			readonly kind: 'certificate';
			readonly authority: string | Buffer;
			/** What the server's certificate has to be made out to. */
			readonly serverName: string;
			readonly certificate?: string | Buffer;
			readonly key?: string | Buffer;
	  }
	| {readonly kind: 'psk'; readonly identity: string; readonly key: Buffer};

/** OpenSSL has no key exchange with such keys unless it is asked for. */
const PSK_CIPHERS = 'PSK:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256';

/** Goes on with a connection as TLS. Rejects if that fails; the connection is then of no use. */
export function secureServer(plain: net.Socket, options: ServerTls): Promise<tls.TLSSocket> {
	return new Promise((resolve, reject) => {
		// One for each connection, since a server does not tell which of them has become secure.
		const server = tls.createServer(serverOptions(options));
		server.once('secureConnection', resolve);
		server.once('tlsClientError', reject);
		server.emit('connection', plain);
	});
}

function serverOptions(options: ServerTls): tls.TlsOptions {
	if (options.kind === 'psk') {
		const pskCallback = (_socket: tls.TLSSocket, identity: string): NodeJS.ArrayBufferView | null =>
			options.keys.get(identity) ?? null;
		return {ciphers: PSK_CIPHERS, pskCallback, minVersion: 'TLSv1.2'};
	}
	const {certificate: cert, key, clientAuthority: ca} = options;
	const verify = ca === undefined ? {} : {ca, requestCert: true, rejectUnauthorized: true};
	return {cert, key, minVersion: 'TLSv1.2', ...verify};
}

/** The same for a client. */
export function secureClient(plain: net.Socket, options: ClientTls): Promise<tls.TLSSocket> {
	return new Promise((resolve, reject) => {
		const secure = tls.connect({socket: plain, minVersion: 'TLSv1.2', ...clientOptions(options)}, () => {
			secure.off('error', reject);
			resolve(secure);
		});
		secure.once('error', reject);
	});
}

function clientOptions(options: ClientTls): tls.ConnectionOptions {
	if (options.kind === 'psk') {
		const {identity, key: psk} = options;
		// Who knows the key is the server: there is no name to check.
		return {ciphers: PSK_CIPHERS, pskCallback: () => ({identity, psk}), checkServerIdentity: () => undefined};
	}
	const {authority: ca, serverName: servername, certificate: cert, key} = options;
	return {ca, servername, ...(cert !== undefined && {cert}), ...(key !== undefined && {key})};
}

/** Throws if a server would show disks over a network in the clear. */
export function requireTlsOverTcp(address: SocketAddress | undefined, tls: object | undefined): void {
	if (address === undefined || 'unix' in address || tls) return;
	throw new UsageError('over TCP anybody could read the disks, without TLS', {
		hint: 'Name a certificate with --tls-cert and --tls-key, or keys with --tls-psk; or serve on a Unix socket.',
	});
}
