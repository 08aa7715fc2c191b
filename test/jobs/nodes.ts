import type {QmpConnection} from '../../src/qmp/connection.ts';
import type {QmpBlockdevBackup} from '../../src/qmp/schema.ts';
import {executeAny} from './bare-vm.ts';

export interface Copy {
	readonly id: string;
	readonly sizeBytes?: number;
	/** Bytes per second. */
	readonly speed?: number;
	/** The first request from `atSector` on fails. */
	readonly fail?: {readonly what: 'read' | 'write'; readonly atSector?: number};
	/** For how long each write takes. */
	readonly writeMs?: number;
}

/** Makes a source and a target without a file behind for each copy. Returns the actions that start the copies. */
export async function prepareCopies(qmp: QmpConnection, copies: readonly Copy[]) {
	const actions = [];
	for (const {id, sizeBytes = 1024 * 1024, speed, fail, writeMs} of copies) {
		await addNode(qmp, `${id}-source`, sizeBytes, {fail: fail?.what === 'read' ? fail : undefined});
		await addNode(qmp, `${id}-target`, sizeBytes, {fail: fail?.what === 'write' ? fail : undefined, ms: writeMs});
		const data: QmpBlockdevBackup = {
			'job-id': id,
			'device': `${id}-source`,
			'target': `${id}-target`,
			'sync': 'full',
			'filter-node-name': `${id}-filter`,
			'auto-finalize': false,
			'auto-dismiss': false,
			'on-source-error': 'report',
			'on-target-error': 'report',
			...(speed === undefined ? {} : {speed}),
		};
		actions.push({type: 'blockdev-backup' as const, data});
	}
	return actions;
}

async function addNode(
	qmp: QmpConnection,
	name: string,
	size: number,
	{fail, ms = 0}: {fail: Copy['fail'] | undefined; ms?: number | undefined},
): Promise<void> {
	// Data: zeroes would be neither read nor written.
	const image = {'driver': 'null-co', size, 'read-zeroes': false, 'latency-ns': ms * 1_000_000};
	if (!fail) {
		await qmp.execute('blockdev-add', {...image, 'node-name': name});
		return;
	}
	await qmp.execute('blockdev-add', {
		'driver': 'blkdebug',
		'node-name': name,
		image,
		'inject-error': [{event: 'none', iotype: fail.what, errno: 28, sector: fail.atSector ?? 0}],
	});
}

export async function setSpeed(qmp: QmpConnection, id: string, speed: number): Promise<void> {
	await executeAny(qmp, 'block-job-set-speed', {device: id, speed});
}
