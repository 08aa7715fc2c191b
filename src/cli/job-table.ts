import type {JobReport} from '../operations/inspect.ts';
import {printable} from './printable.ts';
import {formatBytes} from './quantities.ts';
import {formatTable} from './table.ts';

/** The jobs of a VM, with whose they are. */
export function formatJobs(jobs: readonly JobReport[]): string {
	return formatTable(
		[
			{title: 'JOB', value: job => printable(job.id)},
			{title: 'TYPE', value: job => job.type},
			{title: 'STATUS', value: job => job.status},
			{title: 'DONE', value: job => `${formatBytes(job.doneBytes)} of ${formatBytes(job.totalBytes)}`},
			{title: 'WHOSE', value: job => (job.run === undefined ? "another program's" : `run ${job.run}`)},
		],
		jobs,
	);
}
