import type {FreezeWindow} from '../guest-agent/freeze-window.ts';
import type {FreezeRecord} from '../repository/manifest.ts';
import type {CutRecord} from './backup-messages.ts';
import {ALONE, type GroupMember} from './group.ts';
import {NO_HOOKS, type RunHooks} from './run-hooks.ts';
import {isQuiesceFailure, type QuiescePolicy, type Quiescer} from './quiescer.ts';

/** What a cut by itself tells. */
export type BareCut = Pick<CutRecord, 'at' | 'standstill'>;

interface CutRequest {
	readonly quiesce: QuiescePolicy;
	readonly signal: AbortSignal;
	/** Of the VM; undefined is on. */
	readonly power?: 'on' | 'off' | undefined;
	/** What keeps the cut in step with those of other VMs; undefined where it is the only one. */
	readonly member?: GroupMember | undefined;
	/** What is cut, for the group's record. */
	readonly called: string;
	/** What is done on the host around a freeze. */
	readonly hooks?: RunHooks | undefined;
}

/**
 * A cut in a frozen guest, if there is a quiescer. Where the freeze fails before anything was cut, it is cut without one,
 * but for `require`, which fails. Where it turns out afterwards that the freeze did not hold, the record says so: what that
 * is worth under `require` is for the caller to say.
 */
export async function cutFrozen(
	request: CutRequest,
	quiescer: Quiescer | undefined,
	cut: () => Promise<Omit<BareCut, 'at'>>,
): Promise<CutRecord> {
	const {member = ALONE} = request;
	await member.readyToFreeze(request.called);
	const record = await cutOne({...request, member}, quiescer, cut);
	return {...record, group: await member.record(record.consistency)};
}

async function cutOne(
	{quiesce, signal, power, member, hooks = NO_HOOKS}: Omit<CutRequest, 'member'> & {readonly member: GroupMember},
	quiescer: Quiescer | undefined,
	cut: () => Promise<Omit<BareCut, 'at'>>,
): Promise<Omit<CutRecord, 'group'>> {
	// Never twice: where the answer is late the first one may yet be done.
	const progress = {hasBegun: false};
	const take = async (): Promise<BareCut> => {
		signal.throwIfAborted();
		await member.readyToCut();
		const at = new Date().toISOString();
		progress.hasBegun = true;
		const taken = {at, ...(await member.timed(cut))};
		await member.allCut();
		return taken;
	};
	const plainly = power === 'off' ? 'offline' : 'crash-consistent';
	if (!quiescer) return {...(await take()), consistency: plainly, freeze: null};
	try {
		const {value: taken, window} = await aroundFreeze(hooks, signal, () =>
			quiescer.whileFrozen(async () => {
				await hooks.at('frozen', signal);
				return take();
			}),
		);
		const freeze = freezeRecord(window);
		if (window.doubt === undefined) return {...taken, consistency: 'quiesced', freeze};
		const degraded = `the freeze did not hold: ${window.doubt}`;
		return {...taken, consistency: 'crash-consistent', freeze, degraded};
	} catch (error) {
		if (quiesce === 'require' || progress.hasBegun || !isQuiesceFailure(error)) throw error;
		return {...(await take()), consistency: 'crash-consistent', freeze: null, degraded: error.message};
	}
}

/** What was begun before a freeze is ended after it, however it went. */
async function aroundFreeze<Value>(hooks: RunHooks, signal: AbortSignal, freeze: () => Promise<Value>): Promise<Value> {
	let value: Value;
	try {
		await hooks.at('pre-freeze', signal);
		value = await freeze();
	} catch (error) {
		// Also when the run is cancelled.
		await hooks.at('thawed', new AbortController().signal).catch((second: unknown) => {
			throw new AggregateError([error, second], 'and then a hook failed');
		});
		throw error;
	}
	await hooks.at('thawed', signal);
	return value;
}

function freezeRecord({frozen, freezeMs, heldMs, thawMs}: FreezeWindow): FreezeRecord {
	return {
		fileSystems: frozen,
		freezeSeconds: freezeMs / 1000,
		heldSeconds: heldMs / 1000,
		thawSeconds: thawMs / 1000,
	};
}
