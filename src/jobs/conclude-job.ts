import {defer, filter, firstValueFrom, merge, ReplaySubject, take} from 'rxjs';
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
	// It may be over before the reply to what started it.
	const concluded$ = new ReplaySubject<unknown>(1);
	const following = conclusion$(qmp, id).subscribe(concluded$);
	try {
		await start();
		await firstValueFrom(concluded$, {defaultValue: undefined});
	} finally {
		following.unsubscribe();
	}
	const job = (await qmp.execute('query-jobs')).find(candidate => candidate.id === id);
	if (!job)
		throw new JobError(`${label}: the job was dismissed by another program, so whether it succeeded is unknown`);
	await qmp.execute('job-dismiss', {id});
	if (job.error !== undefined) throw new JobError(`${label}: ${job.error}`);
}

/** Resolves once a job, of whoever, has concluded; at once where there is none. */
export async function untilConcluded(qmp: QmpConnection, id: string): Promise<void> {
	const isOver$ = defer(async () => {
		const job = (await qmp.execute('query-jobs')).find(candidate => candidate.id === id);
		return job === undefined || job.status === 'concluded';
	}).pipe(filter(isOver => isOver));
	await firstValueFrom(merge(conclusion$(qmp, id), isOver$), {defaultValue: undefined});
}

function conclusion$(qmp: QmpConnection, id: string) {
	return qmp.on('JOB_STATUS_CHANGE').pipe(
		filter(({data}) => data.id === id && data.status === 'concluded'),
		take(1),
	);
}
