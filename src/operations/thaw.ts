import type {SocketAddress} from '../config/address.ts';
import {GuestAgent} from '../guest-agent/agent.ts';
import {agentLockKey, clearMarker, readMarker} from '../guest-agent/frozen-marker.ts';
import {askHolder, LockedError, takeLock} from '../host/lock.ts';
import type {Transcript} from '../qmp/transcript.ts';

/** As long as the agent may take, and the guard's own tries before it. */
const GUARD_MS = 40_000;

export interface ThawReport {
	readonly was: 'frozen' | 'thawed';
	readonly fileSystems: number;
}

/**
 * Thaws a guest, whoever froze it; asked for by name. One that a `freeze` of ours keeps frozen is thawed by its guard,
 * which then ends. Throws a `LockedError` while another run is at work with the guest: it thaws by itself.
 */
export async function thaw(
	agent: SocketAddress,
	options: {signal: AbortSignal; transcript?: Transcript | undefined},
): Promise<ThawReport> {
	const key = await agentLockKey(agent);
	try {
		const lock = await takeLock(key, 'the guest', {pid: process.pid, run: 'thaw', doing: 'a thaw'});
		try {
			return await thawDirectly(agent, options);
		} finally {
			await lock.release();
		}
	} catch (error) {
		if (!(error instanceof LockedError)) throw error;
		const fileSystems = await thawByGuard(agent, key);
		if (fileSystems === undefined) throw error;
		return {was: 'frozen', fileSystems};
	}
}

async function thawDirectly(
	address: SocketAddress,
	{signal, transcript}: {signal: AbortSignal; transcript?: Transcript | undefined},
): Promise<ThawReport> {
	const agent = await GuestAgent.open(address, {signal, record: transcript?.of('agent')});
	try {
		const was = await agent.status();
		const fileSystems = await agent.thaw();
		await clearMarker(address);
		return {was, fileSystems};
	} finally {
		agent.close();
	}
}

/** Undefined if the lock's holder is not the guard of a lasting freeze, or does not believe us. */
async function thawByGuard(agent: SocketAddress, key: string): Promise<number | undefined> {
	const marker = await readMarker(agent);
	if (!marker) return undefined;
	const answer = await askHolder(key, `thaw ${marker.token}`, GUARD_MS);
	const thawed = /^\{"thawed":(?<count>\d+)\}$/.exec(answer ?? '')?.groups?.['count'];
	return thawed === undefined ? undefined : Number(thawed);
}
