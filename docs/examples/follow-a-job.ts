/** Follows a job of any program to its end: node follow-a-job.ts /run/web1.qmp JOB */
import {parseAddress, watchJobs} from 'quiesce';
import {lastValueFrom, tap} from 'rxjs';

const [monitor = '', job = ''] = process.argv.slice(2);
const controller = new AbortController();
process.once('SIGINT', () => {
	controller.abort();
});

const message$ = watchJobs(
	{sockets: [{qmp: parseAddress(monitor)}], signal: controller.signal, tell: console.warn},
	job,
).pipe(
	tap(message => {
		if (message.kind === 'progress') {
			for (const {id, status, doneBytes, totalBytes} of message.jobs) console.log(id, status, doneBytes, totalBytes);
		}
		if (message.kind === 'ended') console.log(`${message.id}: ${message.error ?? 'done'}`);
	}),
);
const last = await lastValueFrom(message$);
if (last.kind === 'finished' && last.failed > 0) process.exitCode = 1;
