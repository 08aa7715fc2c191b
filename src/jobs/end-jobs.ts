import {defer, filter, firstValueFrom, merge, take, timeout} from 'rxjs';
import {asError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import {JobError} from './errors.ts';

const END_MS = 30_000;

/**
 * Cancels and dismisses jobs, whatever state they are in. Returns once they are gone, and throws a {@link JobError} for
 * one that does not end, as a job with requests stuck at a hung target does not.
 */
export async function endJobs(qmp: QmpConnection, jobs: readonly QmpJobInfo[]): Promise<void> {
	for (const job of jobs) {
		if (job.status !== 'concluded') await cancel(qmp, job.id);
		await qmp.execute('job-dismiss', {id: job.id});
	}
}

async function cancel(qmp: QmpConnection, id: string): Promise<void> {
	const concluded$ = qmp.on('JOB_STATUS_CHANGE').pipe(
		filter(({data}) => data.id === id && data.status === 'concluded'),
		take(1),
	);
	// It may conclude by itself before the command arrives, which is then refused; so its state is looked at as well.
	const cancelled$ = defer(async () => {
		await qmp.execute('job-cancel', {id}).catch(async (error: unknown) => {
			const job = (await qmp.execute('query-jobs')).find(candidate => candidate.id === id);
			if (job && job.status !== 'concluded') throw error;
		});
		const job = (await qmp.execute('query-jobs')).find(candidate => candidate.id === id);
		return job === undefined || job.status === 'concluded';
	}).pipe(filter(isOver => isOver));
	try {
		await firstValueFrom(merge(concluded$, cancelled$).pipe(timeout(END_MS)), {defaultValue: true});
	} catch (cause) {
		throw new JobError(`job ${id} could not be cancelled: ${asError(cause).message}`, {cause});
	}
}
