import {objectName} from '../block/names.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import {backupAction} from './backup-action.ts';
import type {Cut, CutContext, CutDisk} from './cut.ts';
import {beginRecording} from './recording.ts';
import {timed} from './timed.ts';

/** Bytes per second, as `block-job-set-speed` takes them. */
const UNLIMITED = 0;
const AS_GOOD_AS_STOPPED = 1;

/**
 * `blockdev-backup` straight from the disks. Before the guest overwrites what is not copied yet, QEMU copies it, so the
 * guest waits for the target there, and a target that fails then fails the guest's write.
 *
 * One transaction starts all jobs; each disk stays drained from its own action to the end of the whole (blockdev.c
 * qmp_transaction), so that no disk can hold a write which came after one that another disk lacks.
 */
export function preparePush(context: CutContext, disks: readonly CutDisk[]): Cut {
	const {qmp, run, compress, speedBytesPerSecond = UNLIMITED} = context;
	const jobs = disks.map(({name, node, target, changes}) =>
		backupAction(run, {
			disk: name,
			source: node,
			target,
			bitmap: changes?.name,
			filter: objectName(run, name, 'filter'),
			compress,
			// A copy at full speed delays QEMU's answer, and so the thaw: with two disks 12 ms became 4 ms.
			speedBytesPerSecond: AS_GOOD_AS_STOPPED,
		}),
	);
	// In this order: each bitmap sees a write, or its disk is held still by then.
	const actions = [...beginRecording(disks), ...jobs];
	return {
		jobs: disks.map(({name}) => ({id: objectName(run, name), label: name})),
		pauses: false,
		take: async () => ({stood: 'disks', ms: await timed(() => qmp.execute('transaction', {actions}))}),
		copy: async () => {
			await Promise.all(disks.map(({name}) => setSpeed(qmp, objectName(run, name), speedBytesPerSecond)));
		},
		// The jobs' own filters have gone with them.
		release: () => Promise.resolve(),
	};
}

async function setSpeed(qmp: QmpConnection, job: string, speed: number): Promise<void> {
	try {
		await qmp.execute('block-job-set-speed', {device: job, speed});
	} catch (error) {
		// A small disk is copied by then, and its job takes no speed any more. How it ended, its states tell.
		if (!(error instanceof QmpCommandError)) throw error;
	}
}
