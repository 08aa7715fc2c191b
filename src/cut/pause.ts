import {asError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';

/**
 * Does `work` while the VM's processors stand still. `work` sends commands to this monitor and does not wait between
 * them: they queue up with those that pause and resume, so that the VM goes on as soon as QEMU is through with them, also
 * when one fails.
 */
export async function whilePaused(qmp: QmpConnection, work: () => readonly Promise<unknown>[]): Promise<void> {
	const sent = [qmp.execute('stop'), ...work()];
	const resumed = qmp.execute('cont');
	const failed = (await Promise.allSettled(sent)).find(result => result.status === 'rejected');
	await resumed;
	if (failed) throw asError(failed.reason);
}
