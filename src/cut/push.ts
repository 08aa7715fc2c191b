import {objectName} from '../block/names.ts';
import type {QmpTransactionAction} from '../qmp/schema.ts';
import type {Cut, CutContext} from './cut.ts';

/**
 * `blockdev-backup` straight from the disks. Before the guest overwrites what is not copied yet, QEMU copies it, so the
 * guest waits for the target there, and a target that fails then fails the guest's write.
 *
 * One transaction starts all jobs; each disk stays drained from its own action to the end of the whole (blockdev.c
 * qmp_transaction), so that no disk can hold a write which came after one that another disk lacks.
 */
export function preparePush({run, disks, compress, speedBytesPerSecond, qmp}: CutContext): Promise<Cut> {
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
			...(compress ? {compress} : {}),
			...(speedBytesPerSecond === undefined ? {} : {speed: speedBytesPerSecond}),
		},
	}));
	return Promise.resolve({
		jobs: disks.map(({name}) => ({id: objectName(run, name), label: name})),
		take: async () => {
			await qmp.execute('transaction', {actions});
		},
	});
}
