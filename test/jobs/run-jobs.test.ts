import {filter, firstValueFrom, lastValueFrom, NEVER, type Observable, Subject, tap, throwError, toArray} from 'rxjs';
import {expect, test} from 'vitest';
import {endJobs} from '../../src/jobs/end-jobs.ts';
import {JobError} from '../../src/jobs/errors.ts';
import type {NamedJob} from '../../src/jobs/named-job.ts';
import {type JobsMessage, runJobs} from '../../src/jobs/run-jobs.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {QmpDisconnectedError} from '../../src/qmp/errors.ts';
import type {QmpJobStatus} from '../../src/qmp/schema.ts';
import {type FakeClient, FakeQemu} from '../support/fake-qemu.ts';
import {startQemu} from '../support/real-qemu.ts';
import {executeAny, inside, openQmp} from './bare-vm.ts';
import {type Copy, prepareCopies, setSpeed} from './nodes.ts';

const MIB = 1024 * 1024;
/** Bytes per second, at which a copy of some MiB does not end within a test. */
const CRAWL = 1;

interface Started {
	readonly qmp: QmpConnection;
	/** On the other monitor: what somebody else does. */
	readonly other: QmpConnection;
	readonly kill: () => Promise<void>;
	readonly messages$: Observable<JobsMessage<string>>;
}

function named(copies: readonly Copy[]): NamedJob[] {
	return copies.map(({id}) => ({id, label: `disk ${id}`}));
}

async function prepare(copies: readonly Copy[], watchers$: readonly Observable<never>[] = []): Promise<Started> {
	const {qmpPath, secondQmpPath, kill} = await startQemu();
	const [qmp, other] = await Promise.all([openQmp(qmpPath), openQmp(secondQmpPath)]);
	const actions = await prepareCopies(qmp, copies);
	const start = async () => {
		await qmp.execute('transaction', {actions});
		return 'cut';
	};
	return {qmp, other, kill, messages$: runJobs(qmp, named(copies), start, {watchers$, pollMs: 20})};
}

/** Runs `act` once, when the jobs have started. */
function onceStarted(messages$: Observable<JobsMessage<string>>, act: () => Promise<unknown>): Promise<unknown> {
	const acting: Promise<unknown>[] = [];
	const all = lastValueFrom(
		messages$.pipe(
			tap(({kind}) => {
				if (kind === 'started') acting.push(act());
			}),
			toArray(),
		),
	);
	return all.then(
		async () => Promise.all(acting),
		async (error: unknown) => {
			await Promise.all(acting);
			throw error;
		},
	);
}

function becomes(qmp: QmpConnection, id: string, status: QmpJobStatus): Promise<unknown> {
	const changes$ = qmp.on('JOB_STATUS_CHANGE');
	const became = firstValueFrom(changes$.pipe(filter(({data}) => data.id === id && data.status === status)));
	became.catch(() => undefined);
	return became;
}

function isListenedTo(qmp: QmpConnection): boolean {
	return (qmp.events$ as unknown as {source: Subject<unknown>}).source.observed;
}

test('jobs that all succeed tell their progress, and are gone at the end', async () => {
	const {qmp, messages$} = await prepare([
		{id: 'a', sizeBytes: 3 * MIB},
		{id: 'b', sizeBytes: 2 * MIB, speed: 8 * MIB},
	]);
	const messages = await lastValueFrom(messages$.pipe(toArray()));
	expect(messages[0]).toEqual({kind: 'started', value: 'cut'});
	const progress = messages.flatMap(message => (message.kind === 'progress' ? message.jobs : []));
	expect(progress).toContainEqual({id: 'a', current: 3 * MIB, total: 3 * MIB});
	expect(await inside(qmp)).toEqual({jobs: [], nodes: ['a-source', 'a-target', 'b-source', 'b-target']});
	expect(isListenedTo(qmp)).toBe(false);
});

test('jobs so small that they are pending before the reply to what started them are seen to succeed', async () => {
	const copies = ['a', 'b', 'c'].map(id => ({id, sizeBytes: 65_536}));
	const {qmp, messages$} = await prepare(copies);
	for (let round = 0; round < 20; round++) await lastValueFrom(messages$);
	expect((await inside(qmp)).jobs).toEqual([]);
});

test('jobs without anything to copy succeed', async () => {
	const {messages$} = await prepare([{id: 'empty', sizeBytes: 0}, {id: 'a'}]);
	await expect(lastValueFrom(messages$)).resolves.toBeDefined();
});

test.each([
	{what: 'write', words: 'while writing the copy'},
	{what: 'read', words: 'while reading the disk'},
] as const)('a failure to $what names its disk, and the other jobs can be ended', async ({what, words}) => {
	const {qmp, messages$} = await prepare([
		{id: 'a', sizeBytes: 8 * MIB, speed: CRAWL},
		{id: 'b', fail: {what}},
	]);
	const failure = lastValueFrom(messages$);
	await expect(failure).rejects.toThrow(JobError);
	await expect(failure).rejects.toThrow(`disk b: the job failed ${words}: No space left on device`);
	expect(isListenedTo(qmp)).toBe(false);
	expect((await inside(qmp)).jobs).toEqual(['a', 'b']);
	await endJobs(qmp, await qmp.execute('query-jobs'));
	expect((await inside(qmp)).jobs).toEqual([]);
});

test('a disk that fails after the others have been copied fails the whole', async () => {
	const {other, messages$} = await prepare([
		{id: 'a', sizeBytes: 65_536},
		{id: 'b', sizeBytes: 8 * MIB, speed: CRAWL, fail: {what: 'write', atSector: 8192}},
	]);
	const pending = becomes(other, 'a', 'pending');
	const failing = onceStarted(messages$, async () => {
		await pending;
		await setSpeed(other, 'b', 0);
	});
	await expect(failing).rejects.toThrow('disk b: the job failed while writing the copy');
});

test("another program's jobs are neither waited for, nor mistaken for ours, nor touched", async () => {
	const {other, messages$} = await prepare([{id: 'a', sizeBytes: 4 * MIB, speed: CRAWL}]);
	const theirs = await prepareCopies(other, [
		{id: 'fails', fail: {what: 'write'}},
		{id: 'succeeds'},
		{id: 'goes-on', sizeBytes: 8 * MIB, speed: CRAWL},
	]);
	const copied = onceStarted(messages$, async () => {
		const ends = Promise.all([becomes(other, 'fails', 'concluded'), becomes(other, 'succeeds', 'pending')]);
		await other.execute('transaction', {actions: theirs});
		await ends;
		await other.execute('job-finalize', {id: 'succeeds'});
		expect((await other.execute('query-jobs')).find(job => job.id === 'a')).toMatchObject({status: 'running'});
		await setSpeed(other, 'a', 0);
	});
	await copied;
	const left = await other.execute('query-jobs');
	expect(left.map(({id, status}) => [id, status]).sort()).toEqual([
		['fails', 'concluded'],
		['goes-on', 'running'],
		['succeeds', 'concluded'],
	]);
});

test('a job of ours that another program cancels has failed', async () => {
	const {other, messages$} = await prepare([{id: 'a', sizeBytes: 8 * MIB, speed: CRAWL}, {id: 'b'}]);
	const failing = onceStarted(messages$, () => other.execute('job-cancel', {id: 'a'}));
	await expect(failing).rejects.toThrow(JobError);
	await expect(failing).rejects.toThrow(/^disk a: the job failed: .*cancel/);
});

test('a job of ours that another program finalizes while others still copy is no success', async () => {
	const {other, messages$} = await prepare([{id: 'a', sizeBytes: 8 * MIB, speed: CRAWL}, {id: 'b'}]);
	const pending = becomes(other, 'b', 'pending');
	const failing = onceStarted(messages$, async () => {
		await pending;
		await other.execute('job-finalize', {id: 'b'});
	});
	await expect(failing).rejects.toThrow(JobError);
	await expect(failing).rejects.toThrow('disk b: another program finalized the job before every disk was copied');
});

test('a watcher that fails ends the following, but never while the jobs are being started', async () => {
	const log: string[] = [];
	const {qmpPath} = await startQemu();
	const qmp = await openQmp(qmpPath);
	const actions = await prepareCopies(qmp, [{id: 'a', sizeBytes: 8 * MIB, speed: CRAWL}]);
	const start = async () => {
		await qmp.execute('query-version');
		await qmp.execute('transaction', {actions});
		log.push('started');
	};
	const watchers$ = [throwError(() => new Error('disk full')), NEVER];
	const running = lastValueFrom(
		runJobs(qmp, [{id: 'a', label: 'a'}], start, {watchers$}).pipe(
			tap({
				error: () => {
					log.push('failed');
				},
			}),
		),
	);
	await expect(running).rejects.toThrow('disk full');
	expect(log).toEqual(['started', 'failed']);
	expect(isListenedTo(qmp)).toBe(false);
});

test('jobs that could not be started fail with the refusal, and leave no listener', async () => {
	const {qmp, messages$, other} = await prepare([{id: 'a'}]);
	await executeAny(other, 'blockdev-del', {'node-name': 'a-target'});
	await expect(lastValueFrom(messages$)).rejects.toThrow('QEMU refused transaction');
	expect(isListenedTo(qmp)).toBe(false);
});

test('a QEMU that dies in mid-copy fails the run at once', async () => {
	const {kill, messages$} = await prepare([{id: 'a', sizeBytes: 8 * MIB, speed: CRAWL}]);
	let killedAt = 0;
	const failing = onceStarted(messages$, async () => {
		killedAt = performance.now();
		await kill();
	});
	await expect(failing).rejects.toThrow(QmpDisconnectedError);
	expect(performance.now() - killedAt).toBeLessThan(2_000);
});

test('what nobody subscribes to any more follows nothing', async () => {
	const {qmp, messages$} = await prepare([{id: 'a', sizeBytes: 8 * MIB, speed: CRAWL}]);
	await firstValueFrom(messages$);
	expect(isListenedTo(qmp)).toBe(false);
});

/** A QEMU that plays one job, `a`, to the point where it has concluded. */
async function playToConclusion(): Promise<{client: FakeClient; running: Promise<unknown>}> {
	const fake = await FakeQemu.listen();
	const opening = openQmp(fake.address.unix);
	const client = await fake.accept();
	await client.negotiate();
	const qmp = await opening;
	// The poll for progress would interleave with what is expected here, so there is one at the start only.
	const start = () => Promise.resolve();
	const running = lastValueFrom(runJobs(qmp, [{id: 'a', label: 'disk a'}], start, {pollMs: 60_000}));
	running.catch(() => undefined);
	client.reply(await client.expect('query-jobs'), []);
	client.emit('JOB_STATUS_CHANGE', {id: 'a', status: 'pending'});
	client.reply(await client.expect('job-finalize'));
	client.emit('JOB_STATUS_CHANGE', {id: 'a', status: 'concluded'});
	return {client, running};
}

test('a job that concludes well, but short of its total, is refused', async () => {
	const {client, running} = await playToConclusion();
	const info = {'id': 'a', 'type': 'backup', 'status': 'concluded', 'current-progress': 5, 'total-progress': 100};
	client.reply(await client.expect('query-jobs'), [info]);
	await expect(running).rejects.toThrow(JobError);
	await expect(running).rejects.toThrow('disk a: the job ended early, at 5 of 100 bytes');
});

test('a job that another program has dismissed counts as failed, since nobody knows how it ended', async () => {
	const {client, running} = await playToConclusion();
	client.reply(await client.expect('query-jobs'), []);
	await expect(running).rejects.toThrow(JobError);
	await expect(running).rejects.toThrow('disk a: the job was dismissed by another program');
});

test('a job that another program cancels while it is being finalized has failed', async () => {
	const fake = await FakeQemu.listen();
	const opening = openQmp(fake.address.unix);
	const client = await fake.accept();
	await client.negotiate();
	const running = lastValueFrom(
		runJobs(await opening, [{id: 'a', label: 'disk a'}], () => Promise.resolve(), {pollMs: 60_000}),
	);
	running.catch(() => undefined);
	client.reply(await client.expect('query-jobs'), []);
	client.emit('JOB_STATUS_CHANGE', {id: 'a', status: 'pending'});
	const finalize = await client.expect('job-finalize');
	client.emit('JOB_STATUS_CHANGE', {id: 'a', status: 'aborting'});
	client.emit('JOB_STATUS_CHANGE', {id: 'a', status: 'concluded'});
	client.refuse(finalize, "Job 'a' in state 'concluded' cannot accept command verb 'finalize'");
	const info = {'id': 'a', 'status': 'concluded', 'current-progress': 1, 'total-progress': 1, 'error': 'Cancelled'};
	client.reply(await client.expect('query-jobs'), [info]);
	await expect(running).rejects.toThrow('disk a: the job failed: Cancelled');
});
