import {filter, firstValueFrom, take} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import {JobError} from './errors.ts';
import type {NamedJob} from './named-job.ts';

/**
 * Starts a job that cannot be cancelled and ends by itself, waits for its end, and dismisses it. Throws a {@link JobError} if
 * it has failed. QEMU may answer nothing meanwhile: the jobs of internal snapshots run in its main loop.
 */
export async function concludeJob(
	qmp: QmpConnection,
	{id, label}: NamedJob,
	start: () => Promise<unknown>,
): Promise<void> {
	const concluded = firstValueFrom(
		qmp.on('JOB_STATUS_CHANGE').pipe(
			filter(({data}) => data.id === id && data.status === 'concluded'),
			take(1),
		),
		{defaultValue: undefined},
	);
	concluded.catch(() => undefined);
	await start();
	await concluded;
	const job = (await qmp.execute('query-jobs')).find(candidate => candidate.id === id);
	if (!job)
		throw new JobError(`${label}: the job was dismissed by another program, so whether it succeeded is unknown`);
	await qmp.execute('job-dismiss', {id});
	if (job.error !== undefined) throw new JobError(`${label}: ${job.error}`);
}
