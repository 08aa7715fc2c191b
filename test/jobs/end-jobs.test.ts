import {filter, firstValueFrom} from 'rxjs';
import {expect, onTestFinished, test, vi} from 'vitest';
import {endJobs} from '../../src/jobs/end-jobs.ts';
import {JobError} from '../../src/jobs/errors.ts';
import {yank} from '../../src/jobs/yank.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import type {QmpJobInfo, QmpJobStatus} from '../../src/qmp/schema.ts';
import {type FakeClient, FakeQemu} from '../support/fake-qemu.ts';
import {startQemu} from '../support/real-qemu.ts';
import {inside, openQmp} from './bare-vm.ts';
import {prepareCopies} from './nodes.ts';

async function openFake(capabilities?: readonly unknown[]): Promise<{client: FakeClient; qmp: QmpConnection}> {
	const fake = await FakeQemu.listen();
	const opening = openQmp(fake.address.unix);
	const client = await fake.accept();
	await client.negotiate(capabilities);
	return {client, qmp: await opening};
}

function job(id: string, status: QmpJobStatus): QmpJobInfo {
	return {id, status, 'type': 'backup', 'current-progress': 0, 'total-progress': 1};
}

test('ends jobs that run, that wait to be finalized and that have concluded', async () => {
	const {qmpPath} = await startQemu();
	const qmp = await openQmp(qmpPath);
	const actions = await prepareCopies(qmp, [
		{id: 'runs', sizeBytes: 8 * 1024 * 1024, speed: 1},
		{id: 'waits'},
		{id: 'failed', fail: {what: 'write'}},
	]);
	const reached = (id: string, status: QmpJobStatus) =>
		firstValueFrom(qmp.on('JOB_STATUS_CHANGE').pipe(filter(({data}) => data.id === id && data.status === status)));
	const ready = Promise.all([reached('waits', 'pending'), reached('failed', 'concluded')]);
	await qmp.execute('transaction', {actions});
	await ready;
	await endJobs(qmp, await qmp.execute('query-jobs'));
	const {jobs, nodes} = await inside(qmp);
	expect(jobs).toEqual([]);
	expect(nodes.filter(node => node.endsWith('filter'))).toEqual([]);
});

test('a job that is gone before it can be cancelled or dismissed has ended', async () => {
	const {client, qmp} = await openFake();
	const ending = endJobs(qmp, [job('a', 'running')]);
	client.refuse(await client.expect('job-cancel'), 'Job not found', 'DeviceNotActive');
	client.reply(await client.expect('query-jobs'), []);
	client.reply(await client.expect('query-jobs'), []);
	client.refuse(await client.expect('job-dismiss'), 'Job not found', 'DeviceNotActive');
	client.reply(await client.expect('query-jobs'), []);
	await ending;
});

test('a job that is about to fail by itself refuses to be cancelled, and is waited for', async () => {
	const {client, qmp} = await openFake();
	const ending = endJobs(qmp, [job('a', 'running')]);
	client.refuse(await client.expect('job-cancel'), "Job 'a' in state 'aborting' cannot accept command verb 'cancel'");
	client.reply(await client.expect('query-jobs'), [job('a', 'aborting')]);
	client.reply(await client.expect('query-jobs'), [job('a', 'aborting')]);
	client.emit('JOB_STATUS_CHANGE', {id: 'a', status: 'concluded'});
	client.reply(await client.expect('job-dismiss'));
	await ending;
});

test('a job that cannot be cancelled is told, with the reason', async () => {
	const {client, qmp} = await openFake();
	const ending = endJobs(qmp, [job('a', 'running')]);
	ending.catch(() => undefined);
	client.refuse(await client.expect('job-cancel'), 'not today');
	client.reply(await client.expect('query-jobs'), [job('a', 'running')]);
	await expect(ending).rejects.toThrow(JobError);
	await expect(ending).rejects.toThrow('job a could not be cancelled: QEMU refused job-cancel: not today');
});

test('a job that does not end is given up after ten seconds, and does not keep another from ending', async () => {
	vi.useFakeTimers();
	onTestFinished(() => {
		vi.useRealTimers();
	});
	const {client, qmp} = await openFake();
	const ending = endJobs(qmp, [job('hung', 'running'), job('done', 'concluded')]);
	ending.catch(() => undefined);
	client.reply(await client.expect('job-cancel'));
	client.reply(await client.expect('job-dismiss'));
	client.reply(await client.expect('query-jobs'), [job('hung', 'running')]);
	// An answer has come when a later one has.
	const later = qmp.execute('query-status');
	client.reply(await client.expect('query-status'), {});
	await later;
	await vi.advanceTimersByTimeAsync(10_000);
	await expect(ending).rejects.toThrow(JobError);
	await expect(ending).rejects.toThrow('job hung could not be cancelled');
});

test('breaking connections passes over nodes that are gone, and monitors without the means', async () => {
	const {client, qmp} = await openFake();
	const breaking = yank(qmp, ['a', 'b']);
	const first = await client.expect('yank');
	expect(first).toMatchObject({
		'exec-oob': 'yank',
		'arguments': {instances: [{'type': 'block-node', 'node-name': 'a'}]},
	});
	client.refuse(first, "Instance 'a' not found");
	client.reply(await client.expect('yank'));
	await breaking;

	const without = await openFake([]);
	await yank(without.qmp, ['a']);
});
