import {asError} from '../errors.ts';
import type {GuestAgent} from '../guest-agent/agent.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {clearMarker, readMarker} from '../guest-agent/frozen-marker.ts';

/**
 * Thaws a guest that a dead run of ours left frozen: the caller holds the agent's lock, so a marker is that of a run which
 * is no more. Returns what was done, in words. Throws an {@link AgentError} where someone else has frozen the guest, as
 * then it is theirs to thaw.
 */
export async function thawLeftover(agent: GuestAgent): Promise<string[]> {
	if ((await agent.status()) === 'thawed') {
		// Or a later freeze by someone else would look like that of the dead run.
		await clearMarker(agent.address);
		return [];
	}
	const marker = await readMarker(agent.address);
	if (!marker) {
		throw new AgentError('the guest is already frozen, and not by us', {
			hint: 'Another backup program may be at work. If not, thaw it with `quiesce thaw`.',
		});
	}
	const thawed = await thaw(agent);
	await clearMarker(agent.address);
	return [`thawed the guest (${thawed}), which run ${marker.run} left frozen at ${marker.since}`];
}

/** Hooks run after the thaw, so that their error comes from a guest that is thawed. */
async function thaw(agent: GuestAgent): Promise<string> {
	try {
		return `${await agent.thaw()} file systems`;
	} catch (error) {
		if ((await agent.status().catch(() => 'frozen')) === 'thawed') return asError(error).message;
		throw error;
	}
}
