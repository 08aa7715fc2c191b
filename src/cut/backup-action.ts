import {objectName} from '../block/names.ts';
import type {QmpTransactionAction} from '../qmp/schema.ts';

export interface BackupJob {
	readonly disk: string;
	/** The node that is read. */
	readonly source: string;
	readonly target: string;
	/** Of the job's own filter. */
	readonly filter: string;
	/** On `source`: what to copy; undefined for all. */
	readonly bitmap?: string | undefined;
	readonly compress: boolean;
	/** 0 is no limit. */
	readonly speedBytesPerSecond: number;
	/** The longest piece that is read at once. */
	readonly maxChunkBytes?: number | undefined;
}

/** The job of one disk, for a transaction that starts all of them. */
export function backupAction(run: string, job: BackupJob): QmpTransactionAction {
	return {
		type: 'blockdev-backup',
		data: {
			'job-id': objectName(run, job.disk),
			'device': job.source,
			'target': job.target,
			// It stays as it is, and goes on recording: what to forget, and when, is decided once the point is durable.
			...(job.bitmap === undefined
				? {sync: 'full' as const}
				: {'sync': 'bitmap' as const, 'bitmap': job.bitmap, 'bitmap-mode': 'never' as const}),
			'filter-node-name': job.filter,
			// Nothing counts as done before every disk is.
			'auto-finalize': false,
			'auto-dismiss': false,
			'on-source-error': 'report',
			'on-target-error': 'report',
			'speed': job.speedBytesPerSecond,
			...(job.compress ? {compress: true} : {}),
			...(job.maxChunkBytes === undefined ? {} : {'x-perf': {'max-chunk': job.maxChunkBytes}}),
		},
	};
}
