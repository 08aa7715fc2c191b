import fs from 'node:fs';
import net from 'node:net';
import {formatAddress, type SocketAddress} from '../config/address.ts';
import {asError, errnoOf} from '../errors.ts';
import {UnreachableError} from './errors.ts';

const CONNECT_MS = 5_000;

/** Connects, or says why not in words. The socket is the caller's to destroy. */
export function connect(address: SocketAddress, what: string, signal?: AbortSignal): Promise<net.Socket> {
	signal?.throwIfAborted();
	return new Promise((resolve, reject) => {
		const socket = 'unix' in address ? net.connect(address.unix) : net.connect(address.port, address.host);
		const settle = (act: () => void): void => {
			clearTimeout(timer);
			signal?.removeEventListener('abort', onAbort);
			socket.removeListener('error', onError);
			act();
		};
		const fail = (error: Error): void => {
			settle(() => {
				socket.on('error', () => undefined).destroy();
				reject(error);
			});
		};
		const onAbort = (): void => {
			fail(asError(signal?.reason));
		};
		const onError = (error: Error): void => {
			fail(unreachable(address, what, error));
		};
		const timer = setTimeout(() => {
			fail(new UnreachableError(`${what} ${formatAddress(address)} did not accept a connection within 5 s`));
		}, CONNECT_MS);
		signal?.addEventListener('abort', onAbort, {once: true});
		socket.once('error', onError);
		socket.once('connect', () => {
			settle(() => {
				resolve(socket);
			});
		});
	});
}

function unreachable(address: SocketAddress, what: string, cause: Error): UnreachableError {
	const where = `${what} ${formatAddress(address)}`;
	switch (errnoOf(cause)) {
		case 'ENOENT':
			return new UnreachableError(`${where} does not exist`, {
				cause,
				vmHasEnded: true,
				hint: 'Is the VM running? `quiesce discover` lists the VMs of this host and their sockets.',
			});
		case 'ECONNREFUSED':
			// So Linux says of any other file too.
			if ('unix' in address && !isSocket(address.unix)) {
				return new UnreachableError(`${where} is not a socket`, {cause});
			}
			return new UnreachableError(`nothing listens on ${where}`, {
				cause,
				vmHasEnded: true,
				hint: 'The VM has ended, or its socket was not started with server=on.',
			});
		case 'EACCES':
		case 'EPERM':
			return new UnreachableError(`permission denied on ${where}`, {
				cause,
				hint: 'Run as root or as the user that QEMU runs as.',
			});
		case 'EAGAIN':
			return new UnreachableError(`${where} is busy: other clients are already waiting for it`, {
				cause,
				hint: 'QEMU serves one client a socket; close the others.',
			});
		default:
			return new UnreachableError(`cannot connect to ${where}: ${cause.message}`, {cause});
	}
}

function isSocket(path: string): boolean {
	return fs.statSync(path, {throwIfNoEntry: false})?.isSocket() ?? true;
}
