import type {SocketAddress} from '../../config/address.ts';
import type {NamedTls} from './expose-messages.ts';

/** As libnbd, nbdkit and QEMU read it (doc/uri.md of the protocol); the file of a key is understood by libnbd alone. */
export function nbdUri(address: SocketAddress, exportName: string, tls: NamedTls | undefined): string {
	const user = tls?.psk ? `${encodeURIComponent(tls.psk.identity)}@` : '';
	const query = new URLSearchParams({
		...('unix' in address ? {socket: address.unix} : {}),
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
