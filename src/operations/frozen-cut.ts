import type {FreezeWindow} from '../guest-agent/freeze-window.ts';
import type {FreezeRecord} from '../repository/manifest.ts';
import type {CutRecord} from './backup-messages.ts';
import {isQuiesceFailure, type QuiescePolicy, type Quiescer} from './quiescer.ts';

/** What a cut by itself tells. */
export type BareCut = Pick<CutRecord, 'at' | 'standstill'>;

/**
 * A cut in a frozen guest, if there is a quiescer. Where the freeze fails before anything was cut, it is cut without one,
 * but for `require`, which fails. Where it turns out afterwards that the freeze did not hold, the record says so: what that
 * is worth under `require` is for the caller to say.
 */
export async function cutFrozen(
	{quiesce, signal}: {readonly quiesce: QuiescePolicy; readonly signal: AbortSignal},
	quiescer: Quiescer | undefined,
	cut: () => Promise<Omit<BareCut, 'at'>>,
): Promise<CutRecord> {
	// Never twice: where the answer is late the first one may yet be done.
	const progress = {hasBegun: false};
	const take = async (): Promise<BareCut> => {
		signal.throwIfAborted();
		const at = new Date().toISOString();
		progress.hasBegun = true;
		return {at, ...(await cut())};
	};
	if (!quiescer) return {...(await take()), consistency: 'crash-consistent', freeze: null};
	try {
		const {value: taken, window} = await quiescer.whileFrozen(take);
		const freeze = freezeRecord(window);
		if (window.doubt === undefined) return {...taken, consistency: 'quiesced', freeze};
		const degraded = `the freeze did not hold: ${window.doubt}`;
		return {...taken, consistency: 'crash-consistent', freeze, degraded};
	} catch (error) {
		if (quiesce === 'require' || progress.hasBegun || !isQuiesceFailure(error)) throw error;
		return {...(await take()), consistency: 'crash-consistent', freeze: null, degraded: error.message};
	}
}

function freezeRecord({frozen, freezeMs, heldMs, thawMs}: FreezeWindow): FreezeRecord {
	return {
		fileSystems: frozen,
		freezeSeconds: freezeMs / 1000,
		heldSeconds: heldMs / 1000,
		thawSeconds: thawMs / 1000,
	};
}
