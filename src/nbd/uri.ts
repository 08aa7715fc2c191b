import path from 'node:path';
import type {SocketAddress} from '../config/address.ts';
import type {ServerTls} from './tls.ts';

/** What clients have to know of a server's TLS. */
export interface NamedTls {
	readonly server: ServerTls;
	/** For the URIs, with PSK: a name that a client may bear, and the file of its key. */
	readonly psk?: {readonly identity: string; readonly file: string} | undefined;
}

/** As libnbd, nbdkit and QEMU read it (doc/uri.md of the protocol); the file of a key is understood by libnbd alone. */
export function nbdUri(address: SocketAddress, exportName: string, tls: NamedTls | undefined): string {
	const user = tls?.psk ? `${encodeURIComponent(tls.psk.identity)}@` : '';
	const query = new URLSearchParams({
		...('unix' in address ? {socket: path.resolve(address.unix)} : {}),
		...(tls?.psk ? {'tls-psk-file': tls.psk.file} : {}),
	});
	const scheme = `${tls ? 'nbds' : 'nbd'}${'unix' in address ? '+unix' : ''}`;
	const words = query.size === 0 ? '' : `?${query.toString().replaceAll('%2F', '/').replaceAll('+', '%20')}`;
	return `${scheme}://${user}${hostOf(address)}/${encodeURIComponent(exportName)}${words}`;
}

function hostOf(address: SocketAddress): string {
	if ('unix' in address) return '';
	return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}
