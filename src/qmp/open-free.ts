import type {SocketAddress} from '../config/address.ts';
import {QmpConnection, type QmpOptions} from './connection.ts';
import {UnreachableError} from './errors.ts';

/**
 * The first of a VM's monitors that is free, and which that is: each serves one client, and a run at work holds its own. Whoever opens it closes
 * it. Throws as {@link QmpConnection.open} does for the last.
 */
export async function openFree(
	[first, ...others]: readonly [SocketAddress, ...SocketAddress[]],
	options: QmpOptions,
): Promise<{readonly qmp: QmpConnection; readonly address: SocketAddress}> {
	try {
		return {qmp: await QmpConnection.open(first, options), address: first};
	} catch (error) {
		const [next, ...rest] = others;
		if (!(error instanceof UnreachableError) || !next) throw error;
		return openFree([next, ...rest], options);
	}
}
