import fs from 'node:fs/promises';
import path from 'node:path';
import type {Argv} from 'yargs';
import {UsageError} from '../errors.ts';
import type {NamedTls} from '../nbd/uri.ts';

export interface TlsOptions {
	readonly tlsCert?: string | undefined;
	readonly tlsKey?: string | undefined;
	readonly tlsClientCa?: string | undefined;
	readonly tlsPsk?: string | undefined;
}

export const TLS_OPTIONS = ['tls-cert', 'tls-key', 'tls-client-ca', 'tls-psk'] as const;

/** For what serves NBD clients. */
export function tlsOptions<Options>(yargs: Argv<Options>): Argv<Options & TlsOptions> {
	return yargs
		.option('tls-cert', {type: 'string', describe: 'Demand TLS, with this certificate (PEM)', group: 'TLS:'})
		.option('tls-key', {type: 'string', describe: 'The private key of --tls-cert (PEM)', group: 'TLS:'})
		.option('tls-client-ca', {
			type: 'string',
			describe: 'Let in only clients with a certificate of this authority (PEM)',
			group: 'TLS:',
		})
		.option('tls-psk', {
			type: 'string',
			describe: 'Demand TLS, with the keys of this file, a NAME:HEX each line',
			group: 'TLS:',
		});
}

/** Reads the files. */
export async function tlsOf({tlsCert, tlsKey, tlsClientCa, tlsPsk}: TlsOptions): Promise<NamedTls | undefined> {
	if ((tlsCert === undefined) !== (tlsKey === undefined)) throw new UsageError('--tls-cert and --tls-key go together');
	if (tlsClientCa !== undefined && tlsCert === undefined) throw new UsageError('--tls-client-ca is for --tls-cert');
	if (tlsPsk !== undefined && tlsCert !== undefined)
		throw new UsageError('give either --tls-psk or --tls-cert, not both');
	if (tlsPsk !== undefined) return pskOf(path.resolve(tlsPsk));
	if (tlsCert !== undefined && tlsKey !== undefined) {
		const clientAuthority =
			tlsClientCa === undefined ? {} : {clientAuthority: await read('--tls-client-ca', tlsClientCa)};
		const certificate = await read('--tls-cert', tlsCert);
		return {server: {kind: 'certificate', certificate, key: await read('--tls-key', tlsKey), ...clientAuthority}};
	}
	return undefined;
}

/** A file as `psktool` of GnuTLS makes it. */
async function pskOf(file: string): Promise<NamedTls> {
	const keys = new Map<string, Buffer>();
	for (const [index, line] of (await read('--tls-psk', file)).split('\n').entries()) {
		if (line.trim() === '' || line.startsWith('#')) continue;
		const {name, key} = /^(?<name>[^:]+):(?<key>(?:[0-9a-f]{2})+)\s*$/i.exec(line)?.groups ?? {};
		// The line itself is not told: it has a secret.
		if (name === undefined || key === undefined) {
			throw new UsageError(`--tls-psk: line ${index + 1} of ${file} is not NAME:HEX`);
		}
		keys.set(name, Buffer.from(key, 'hex'));
	}
	const [identity] = keys.keys();
	if (identity === undefined) throw new UsageError(`--tls-psk: ${file} has no key`);
	return {server: {kind: 'psk', keys}, psk: {identity, file}};
}

async function read(option: string, file: string): Promise<string> {
	try {
		return await fs.readFile(file, 'utf8');
	} catch (cause) {
		throw new UsageError(`${option}: ${file} cannot be read`, {cause});
	}
}
