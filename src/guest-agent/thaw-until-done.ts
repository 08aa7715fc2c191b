import {setTimeout as delay} from 'node:timers/promises';
import type {SocketAddress} from '../config/address.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {GuestAgent} from './agent.ts';
import {AgentError} from './errors.ts';
import {clearMarker, readMarker} from './frozen-marker.ts';

const RETRY_MS = 200;
/** Refused so often in a row, a socket belongs to a VM that has ended: nothing is frozen any more. */
const GONE_AFTER = 5;
/** Short, as what is sent to a port that nobody has open is lost; then longer, as a loaded guest may be slow. */
const FIRST_SYNC_MS = 1_000;
const LAST_SYNC_MS = 16_000;

/**
 * Tries until the guest is thawed, or is no longer ours to thaw, without an end. `owner` is the process whose freeze it
 * is: the marker of another one means that another run met our freeze, and froze anew.
 */
export async function thawUntilDone(
	address: SocketAddress,
	owner: number,
): Promise<{readonly words: string; readonly thawed?: number}> {
	let gone = 0;
	for (let syncMs = FIRST_SYNC_MS; ; syncMs = Math.min(2 * syncMs, LAST_SYNC_MS)) {
		let agent: GuestAgent | undefined;
		try {
			agent = await GuestAgent.open(address, {syncMs});
			// Only now: one client at a time has the agent.
			const marker = await readMarker(address).catch(() => undefined);
			if (marker !== undefined && marker.pid !== owner) return {words: 'another run looks after it'};
			const thawed = await agent.thaw();
			await forget(address);
			return {words: `thawed ${thawed} file systems`, thawed};
		} catch (error) {
			// A hook's error comes after the thaw; the marker stays for what could not be shown to be thawed.
			if (error instanceof AgentError && agent && (await isThawed(agent))) {
				await forget(address);
				return {words: `thawed, but ${error.message}`, thawed: 0};
			}
			gone = error instanceof UnreachableError && error.vmHasEnded ? gone + 1 : 0;
			if (gone >= GONE_AFTER) {
				await forget(address);
				return {words: 'the VM has ended since'};
			}
		} finally {
			agent?.close();
		}
		await delay(RETRY_MS);
	}
}

async function isThawed(agent: GuestAgent): Promise<boolean> {
	return (await agent.status().catch(() => 'frozen')) === 'thawed';
}

/** A marker that stays is seen by the next run; it is no reason to thaw again. */
async function forget(address: SocketAddress): Promise<void> {
	await clearMarker(address).catch(() => undefined);
}
