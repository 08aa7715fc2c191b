import {performance} from 'node:perf_hooks';
import {lastValueFrom, Subject} from 'rxjs';
import {expect, test, vi} from 'vitest';
import {endJobs} from '../../src/jobs/end-jobs.ts';
import {failOnStall} from '../../src/jobs/fail-on-stall.ts';
import {runJobs} from '../../src/jobs/run-jobs.ts';
import type {QmpJobInfo} from '../../src/qmp/schema.ts';
import {startQemu} from '../support/real-qemu.ts';
import {MIB, openQmp} from './bare-vm.ts';
import {prepareCopies} from './nodes.ts';

const STALL_MS = 5000;

type Report = Pick<QmpJobInfo, 'id' | 'status'> & {readonly at: number};

/** Tells what the jobs report, each time a second after the last. Returns the error, or how many reports went through. */
function watch(reports: readonly (readonly Report[])[]): unknown {
	let now = 0;
	const clock = vi.spyOn(performance, 'now').mockImplementation(() => now);
	const infos$ = new Subject<readonly QmpJobInfo[]>();
	let passed = 0;
	let failed: unknown;
	const jobs = [
		{id: 'a', label: 'vda'},
		{id: 'b', label: 'vdb'},
	];
	infos$.pipe(failOnStall(jobs, STALL_MS)).subscribe({
		next: () => {
			passed++;
		},
		error: (error: unknown) => {
			failed = error;
		},
	});
	for (const report of reports) {
		now += 1000;
		infos$.next(
			report.map(({id, status, at}) => ({
				id,
				status,
				'type': 'backup',
				'current-progress': at,
				'total-progress': 100,
			})),
		);
	}
	clock.mockRestore();
	return failed ?? passed;
}

function times<Value>(count: number, value: (index: number) => Value): Value[] {
	return Array.from({length: count}, (_, index) => value(index));
}

test('a job that runs without progress has failed when the time is over, and not before', () => {
	const still = (count: number) => watch(times(count, index => [{id: 'a', status: 'running', at: Math.min(index, 3)}]));
	expect(still(4 + 4)).toBe(8);
	expect(still(4 + 5)).toMatchObject({
		code: 'JOB_FAILED',
		message: 'vda: the copy made no progress for 5 s',
		hint: expect.stringContaining('--target-timeout') as string,
	});
});

test('one that moves, however little, has not', () => {
	expect(watch(times(30, index => [{id: 'a', status: 'running', at: Math.floor(index / 4)}]))).toBe(30);
});

test.each(['created', 'paused', 'standby', 'waiting', 'pending', 'aborting', 'concluded'] as const)(
	'time in which a job is %s does not count',
	status => {
		const away = times(30, () => [{id: 'a', status, at: 1}]);
		expect(watch(away)).toBe(30);
		const running = times(4, () => [{id: 'a', status: 'running' as const, at: 1}]);
		expect(watch([...running, ...away, ...running])).toBe(38);
	},
);

test('each job has its own time, and those of others have none', () => {
	const moving = (index: number): Report => ({id: 'a', status: 'running', at: index});
	const both = times(30, index => [moving(index), {id: 'b', status: 'running' as const, at: 1}]);
	expect(watch(both)).toMatchObject({message: 'vdb: the copy made no progress for 5 s'});
	expect(watch(times(30, index => [moving(index), {id: 'theirs', status: 'running' as const, at: 1}]))).toBe(30);
	expect(watch(times(30, () => []))).toBe(30);
});

test('a job of a real QEMU whose target hangs is given up, and can be ended', async () => {
	const {qmpPath} = await startQemu();
	const qmp = await openQmp(qmpPath);
	const actions = await prepareCopies(qmp, [
		{id: 'a', sizeBytes: 8 * MIB, writeMs: 3000},
		{id: 'b', sizeBytes: MIB},
	]);
	const start = () => qmp.execute('transaction', {actions});
	const named = ['a', 'b'].map(id => ({id, label: id}));
	const ran = lastValueFrom(runJobs(qmp, named, start, {pollMs: 50, stallMs: 1000}));
	await expect(ran).rejects.toThrow('a: the copy made no progress for 1 s');
	const jobs = await qmp.execute('query-jobs');
	expect(jobs.find(({id}) => id === 'b')).toMatchObject({status: 'pending'});
	await endJobs(qmp, jobs);
	expect(await qmp.execute('query-jobs')).toEqual([]);
});
