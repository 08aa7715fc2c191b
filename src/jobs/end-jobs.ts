import {defer, filter, firstValueFrom, merge, take, timeout} from 'rxjs';
import {asError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import {JobError} from './errors.ts';

/** The guest may wait for a hung target as long, and gives up after 30 s (the Linux SCSI driver). */
const END_MS = 10_000;

/**
 * Cancels and dismisses jobs, whatever state they are in. Returns once they are gone. Throws a {@link JobError} if one
 * does not end, as a job with requests stuck at a hung target does not; the others have ended then.
 */
export async function endJobs(qmp: QmpConnection, jobs: readonly QmpJobInfo[]): Promise<void> {
	const ends = await Promise.allSettled(jobs.map(job => endJob(qmp, job)));
	const failed = ends.find(end => end.status === 'rejected');
	if (failed) throw asError(failed.reason);
}

async function endJob(qmp: QmpConnection, {id, status}: QmpJobInfo): Promise<void> {
	if (status !== 'concluded') await cancel(qmp, id);
	await qmp.execute('job-dismiss', {id}).catch(async (error: unknown) => {
		if (await find(qmp, id)) throw error;
	});
}

async function cancel(qmp: QmpConnection, id: string): Promise<void> {
	const concluded$ = qmp.on('JOB_STATUS_CHANGE').pipe(
		filter(({data}) => data.id === id && data.status === 'concluded'),
		take(1),
	);
	// It may end by itself before the command arrives, which is then refused; so its state is looked at as well.
	const cancelled$ = defer(async () => {
		await qmp.execute('job-cancel', {id}).catch(async (error: unknown) => {
			const job = await find(qmp, id);
			if (job && job.status !== 'aborting' && job.status !== 'concluded') throw error;
		});
		const job = await find(qmp, id);
		return job === undefined || job.status === 'concluded';
	}).pipe(filter(isOver => isOver));
	try {
		await firstValueFrom(merge(concluded$, cancelled$).pipe(timeout(END_MS)), {defaultValue: true});
	} catch (cause) {
		throw new JobError(`job ${id} could not be cancelled: ${asError(cause).message}`, {cause});
	}
}

async function find(qmp: QmpConnection, id: string): Promise<QmpJobInfo | undefined> {
	return (await qmp.execute('query-jobs')).find(job => job.id === id);
}
