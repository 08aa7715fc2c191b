import {objectName} from '../block/names.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpTransactionAction} from '../qmp/schema.ts';
import type {Cut, CutContext} from './cut.ts';

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
export function preparePush({run, disks, compress, speedBytesPerSecond = UNLIMITED, qmp}: CutContext): Promise<Cut> {
	const actions = disks.map((disk): QmpTransactionAction => ({
		type: 'blockdev-backup',
		data: {
			'job-id': objectName(run, disk.name),
			'device': disk.node,
			'target': disk.target,
			'sync': 'full',
			'filter-node-name': objectName(run, disk.name, 'filter'),
			// Nothing counts as done before every disk is.
			'auto-finalize': false,
			'auto-dismiss': false,
			'on-source-error': 'report',
			'on-target-error': 'report',
			// A copy at full speed delays QEMU's answer, and so the thaw: with two disks 12 ms became 4 ms.
			'speed': AS_GOOD_AS_STOPPED,
			...(compress ? {compress} : {}),
		},
	}));
	return Promise.resolve({
		jobs: disks.map(({name}) => ({id: objectName(run, name), label: name})),
		take: async () => {
			await qmp.execute('transaction', {actions});
		},
		copy: async () => {
			await Promise.all(disks.map(({name}) => setSpeed(qmp, objectName(run, name), speedBytesPerSecond)));
		},
	});
}

async function setSpeed(qmp: QmpConnection, job: string, speed: number): Promise<void> {
	try {
		await qmp.execute('block-job-set-speed', {device: job, speed});
	} catch (error) {
		// A small disk is copied by then, and its job takes no speed any more. How it ended, its states tell.
		if (!(error instanceof QmpCommandError)) throw error;
	}
}
