import {performance} from 'node:perf_hooks';
import {setTimeout as delay} from 'node:timers/promises';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpMigrationInfo} from '../qmp/schema.ts';
import {MigrationError} from './errors.ts';
import {type MigrationSettings, putBack} from './settings.ts';
import {isOver} from './status.ts';

/** What a save has begun, for whoever has to end it. */
export interface MigrationMark {
	readonly settings: MigrationSettings;
	readonly wasRunning: boolean;
	/** Whether QEMU was told to finish. */
	readonly hasSwitched: boolean;
	/** Whether QEMU can take back the disks of a VM that is not to run. */
	readonly canActivate: boolean;
}

const LOOK_MS = 5;
/** Until then QEMU has noticed that nobody reads any more. */
const FAIL_MS = 5_000;
const END_MS = 60_000;

/**
 * Ends a save in whatever state it is, lets the VM go on if it ran, and puts the settings back. Can be repeated. `whose`
 * tells whether a migration that goes on may be somebody else's, begun after our death: ours fails by itself then,
 * unless it waits for a word of ours. Returns what was done, in words.
 */
export async function endMigration(
	qmp: QmpConnection,
	mark: MigrationMark,
	{whose}: {readonly whose: 'ours' | 'unknown'},
): Promise<string[]> {
	const done: string[] = [];
	let info = await qmp.execute('query-migrate');
	if (whose === 'unknown' && info.status !== 'pre-switchover') info = await settled(qmp, FAIL_MS);
	if (!isOver(info)) {
		if (whose === 'unknown' && info.status !== 'pre-switchover') return ['left a migration alone, which goes on'];
		await qmp.execute('migrate_cancel');
		info = await settled(qmp, END_MS);
		if (!isOver(info)) throw new MigrationError(`the migration does not end: it is ${info.status ?? ''}`);
		done.push('cancelled the migration that saved the memory');
	}
	// Where we did not let it finish it was another one, and the VM may run elsewhere by now.
	if (info.status === 'completed' && !mark.hasSwitched && (await statusOf(qmp)) === 'postmigrate') return done;
	if (await goOn(qmp, mark)) done.push('resumed the VM');
	await putBack(qmp, mark.settings);
	return done;
}

/** Lets a VM that ran go on, and gives one that did not its disks back. True if there was something to do. */
export async function goOn(
	qmp: QmpConnection,
	{wasRunning, hasSwitched, canActivate}: MigrationMark,
): Promise<boolean> {
	const until = performance.now() + END_MS;
	for (;;) {
		switch (await statusOf(qmp)) {
			case 'finish-migrate':
				// The migration's status changes a little before the VM's.
				break;
			case 'paused':
			case 'prelaunch':
				if (!wasRunning) return false;
				await qmp.execute('cont');
				return true;
			case 'postmigrate':
				if (wasRunning) await qmp.execute('cont');
				else if (hasSwitched && canActivate) await qmp.execute('blockdev-set-active', {active: true});
				return true;
			default:
				return false;
		}
		if (performance.now() > until) throw new MigrationError('QEMU does not let the VM go on after the migration');
		await delay(LOOK_MS);
	}
}

async function statusOf(qmp: QmpConnection): Promise<string> {
	return (await qmp.execute('query-status')).status;
}

async function settled(qmp: QmpConnection, ms: number): Promise<QmpMigrationInfo> {
	const until = performance.now() + ms;
	for (;;) {
		const info = await qmp.execute('query-migrate');
		if (isOver(info) || performance.now() > until) return info;
		await delay(LOOK_MS);
	}
}
