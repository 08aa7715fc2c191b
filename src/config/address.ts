import fs from 'node:fs/promises';
import path from 'node:path';
import {UsageError} from '../errors.ts';

/** Where a monitor or an agent listens. */
export type SocketAddress = {readonly unix: string} | {readonly host: string; readonly port: number};

/** `sun_path` holds 108 bytes with its NUL; a longer path is cut silently by some programs. */
const MAX_UNIX_PATH_BYTES = 107;

/** Reads `unix:/path`, `/path`, `./path` or `tcp:host:port`, with `tcp:[::1]:4444` for IPv6. */
export function parseAddress(text: string): SocketAddress {
	if (text.startsWith('tcp:')) return parseTcp(text);
	const unix = text.startsWith('unix:') ? text.slice('unix:'.length) : text;
	if (!text.startsWith('unix:') && !unix.includes('/')) {
		throw new UsageError(`'${text}' is no socket address`, {hint: 'Use unix:/path, /path or tcp:host:port.'});
	}
	if (unix === '' || unix.includes('\0')) throw new UsageError(`'${text}' names no socket`);
	if (Buffer.byteLength(unix) > MAX_UNIX_PATH_BYTES) {
		throw new UsageError(`the socket path '${unix}' is longer than ${MAX_UNIX_PATH_BYTES} bytes`, {
			hint: 'Give a shorter path, for example through a symbolic link to its folder.',
		});
	}
	return {unix};
}

function parseTcp(text: string): SocketAddress {
	const match = /^tcp:(?:\[(?<six>[^\]]+)\]|(?<host>[^:[\]]+)):(?<port>\d{1,5})$/.exec(text);
	const host = match?.groups?.['six'] ?? match?.groups?.['host'];
	const port = Number(match?.groups?.['port']);
	if (host === undefined || !(port >= 1 && port <= 65_535)) {
		throw new UsageError(`'${text}' is no socket address`, {hint: 'Use tcp:host:port, with a port from 1 to 65535.'});
	}
	return {host, port};
}

/** The address as {@link parseAddress} reads it. */
export function formatAddress(address: SocketAddress): string {
	if ('unix' in address) return `unix:${address.unix}`;
	return `tcp:${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}

/** One text for all spellings of the same address, links resolved: what a lock or a marker of it is called. */
export async function canonicalAddress(address: SocketAddress): Promise<string> {
	if (!('unix' in address)) return formatAddress(address);
	const folder = path.dirname(path.resolve(address.unix));
	const real = await fs.realpath(folder).catch(() => folder);
	return formatAddress({unix: path.join(real, path.basename(address.unix))});
}
