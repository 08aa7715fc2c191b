import fs from 'node:fs/promises';
import net from 'node:net';
import {errnoOf, UsageError} from '../errors.ts';

/**
 * Sees to it that a Unix socket can be made at a path: one that nobody listens on, as a program that was killed leaves it, is
 * removed. Throws a `UsageError` where somebody does, or something else is there.
 */
export async function freeSocket(path: string): Promise<void> {
	const stat = await fs.lstat(path).catch((error: unknown) => {
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw error;
	});
	if (!stat) return;
	if (!stat.isSocket()) throw new UsageError(`${path} exists, and is no socket`, {hint: 'Name another path.'});
	if (await hasListener(path)) {
		throw new UsageError(`${path} is in use: another program listens on it`, {hint: 'Name another path.'});
	}
	await fs.rm(path);
}

/** Only a refusal shows that there is none. */
function hasListener(path: string): Promise<boolean> {
	return new Promise(resolve => {
		const client = net.connect({path});
		client.once('connect', () => {
			client.destroy();
			resolve(true);
		});
		client.once('error', error => {
			resolve(errnoOf(error) !== 'ECONNREFUSED');
		});
	});
}
