import {createHash, randomBytes} from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {canonicalAddress, type SocketAddress} from '../config/address.ts';
import {errnoOf} from '../errors.ts';
import {runtimeFolder} from '../host/runtime-folder.ts';

const Marker = v.object({
	run: v.string(),
	pid: v.number(),
	/** RFC 3339. */
	since: v.string(),
	/** Shows the holder of a lasting freeze that the one who asks to end it may read this file. */
	token: v.string(),
});

/** What tells a later run that a guest it finds frozen was frozen by us, by a run that may be dead. */
export type FrozenMarker = v.InferOutput<typeof Marker>;

/** Must be on disk before the freeze is sent. */
export async function markFrozen(address: SocketAddress, run: string): Promise<FrozenMarker> {
	const marker = {run, pid: process.pid, since: new Date().toISOString(), token: randomBytes(16).toString('hex')};
	const file = await markerFile(address);
	const draft = `${file}.${process.pid}`;
	await fs.writeFile(draft, JSON.stringify(marker), {mode: 0o600});
	await fs.rename(draft, file);
	return marker;
}

/** The marker of whoever of us froze the guest behind `address` and has not thawed it; none where it cannot be read as one. */
export async function readMarker(address: SocketAddress): Promise<FrozenMarker | undefined> {
	let text: string;
	try {
		text = await fs.readFile(await markerFile(address), 'utf8');
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw error;
	}
	const marker = v.safeParse(v.pipe(v.string(), v.parseJson(), Marker), text);
	return marker.success ? marker.output : undefined;
}

export async function clearMarker(address: SocketAddress): Promise<void> {
	await fs.rm(await markerFile(address), {force: true});
}

/** The host-wide lock that whoever may freeze this guest holds. */
export async function agentLockKey(address: SocketAddress): Promise<string> {
	return `agent ${await canonicalAddress(address)}`;
}

async function markerFile(address: SocketAddress): Promise<string> {
	const name = createHash('sha256')
		.update(await canonicalAddress(address))
		.digest('hex')
		.slice(0, 16);
	return path.join(await runtimeFolder(), `frozen-${name}.json`);
}
