import {setTimeout as delay} from 'node:timers/promises';
import {defer, mergeMap, NEVER, type Observable} from 'rxjs';
import {QuiesceError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError, QmpDisconnectedError} from '../qmp/errors.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import {MigrationError} from './errors.ts';
import {failWhenStill} from './fail-when-still.ts';
import type {MemorySender} from './memory-file.ts';
import {readSettings, setCapabilities} from './settings.ts';
import {reach} from './status.ts';

export interface LoadTask {
	/** Of a QEMU that was started with `-incoming defer`. */
	readonly qmp: QmpConnection;
	readonly schema: QmpSchema;
	readonly sender: MemorySender;
	/** What ends it by failing. */
	readonly watchers$: readonly Observable<never>[];
}

const STILL_MS = 60_000;
const LOOK_MS = 5;

/**
 * Gives a QEMU that waits for it the state that was saved. It has the VM paused then, or running if it was saved so and
 * QEMU was started without `-S`. A QEMU that cannot take it in has ended (before 9.1), or has to be ended.
 */
export async function loadMemory({qmp, schema, sender, watchers$}: LoadTask): Promise<void> {
	const {status} = await qmp.execute('query-status');
	if (status !== 'inmigrate') {
		throw new QuiesceError('REFUSED', `this QEMU does not wait for a memory: its VM is ${status}`, {
			hint: 'Start it with -incoming defer.',
		});
	}
	const {capabilities} = await readSettings(qmp);
	await setCapabilities(qmp, {events: true});
	try {
		const keepsOn = schema.hasArgument('migrate-incoming', 'exit-on-error') ? {'exit-on-error': false} : {};
		await qmp.execute('migrate-incoming', {uri: sender.uri, ...keepsOn});
		await reach(qmp, 'completed', [
			...watchers$,
			defer(() => sender.send()).pipe(mergeMap(() => NEVER)),
			failWhenStill(sender.sent, STILL_MS),
		]);
		// The migration's status changes a little before the VM's.
		while ((await qmp.execute('query-status')).status === 'inmigrate') await delay(LOOK_MS);
		await setCapabilities(qmp, {events: capabilities['events'] ?? false});
	} catch (error) {
		throw explained(error);
	}
}

function explained(error: unknown): unknown {
	const hint =
		'The memory fits the same machine type, devices and processors only, and disks as they were at the same instant. ' +
		"QEMU's own log may say more.";
	if (error instanceof QmpDisconnectedError) {
		return new MigrationError('QEMU has ended while it took in the memory', {cause: error, hint});
	}
	if (error instanceof QmpCommandError || (error instanceof MigrationError && error.hint === undefined)) {
		return new MigrationError(`QEMU did not take in the memory: ${error.message}`, {cause: error, hint});
	}
	return error;
}
