import type {Cut} from '../cut/cut.ts';
import {AgentError} from '../guest-agent/errors.ts';
import type {CutRecord} from './backup-messages.ts';
import type {CopyTask} from './copy-task.ts';
import {cutFrozen} from './frozen-cut.ts';
import {clearPausing, markPausing} from './pause-marker.ts';
import {reachAgain} from './reach-again.ts';

/** Longer than any pause takes; then the run counts as hung. */
const PAUSE_MS = 5_000;

/** Takes a cut that is ready. Under `require` anything less than a sound freeze fails. */
export async function takeCut(task: CopyTask, called: string, cut: Pick<Cut, 'pauses' | 'take'>): Promise<CutRecord> {
	const {request, quiescer, vm, member} = task;
	const {power} = vm;
	const record = await cutFrozen({...request, member, power, called}, quiescer, async () => {
		const {stood, ms} = await (cut.pauses ? whileWatched(task, () => cut.take()) : cut.take());
		return {standstill: power === 'on' ? {of: stood, seconds: ms / 1000} : null};
	});
	if (quiescer && request.quiesce === 'require' && record.degraded !== undefined) throw new AgentError(record.degraded);
	return record;
}

/** While `pausing` may have the VM paused, our death is followed by its going on: by the guard's doing, or the next run's. */
async function whileWatched<Value>(task: CopyTask, pausing: () => Promise<Value>): Promise<Value> {
	const {run, guard} = task;
	await markPausing(run.folder);
	await guard.watchPause(PAUSE_MS);
	const stopWatching = async (): Promise<void> => {
		await guard.pauseOver();
		await clearPausing(run.folder);
	};
	try {
		const value = await pausing();
		await stopWatching();
		return value;
	} catch (error) {
		// The agent of a paused VM cannot thaw it. Until it is sure to run again, the guard has to see to it.
		await resumeSurely(task);
		await stopWatching();
		throw error;
	}
}

/** The command that resumes the VM may have been lost with the connection. */
async function resumeSurely({vm}: CopyTask): Promise<void> {
	await reachAgain(vm, async qmp => {
		if ((await qmp.execute('query-status')).status === 'paused') await qmp.execute('cont');
	});
}
