import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {commit} from '../../src/operations/commit.ts';
import {changeJobs, listJobs, watchJobs, type WatchMessage} from '../../src/operations/jobs.ts';
import {inside, MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {collect} from '../jobs/collect.ts';
import {expectContent, putOverlay} from './chain-vm.ts';
import {WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

function signal(): AbortSignal {
	return new AbortController().signal;
}

test("a run's job is found on another monitor, held, changed and watched; another program's is touched by its name alone", async () => {
	const third = 'third.sock';
	const written = await new WrittenVm().start(undefined, ['-qmp', `unix:${third},server=on,wait=off`]);
	const busy = {qmp: {unix: written.vm.qmpPath}};
	const free = {qmp: {unix: `${written.vm.dir}/${third}`}};
	const request = {sockets: [free] as const, signal: signal(), tell: () => undefined};
	expect(await listJobs(request)).toEqual([]);
	await expect(changeJobs(request, {kind: 'pause'})).rejects.toMatchObject({hint: 'It has no jobs.'});
	await putOverlay(written, 'vda', 'a');
	await putOverlay(written, 'vdb', 'a');
	await written.write('vda', 0, 8 * MIB);
	await written.write('vdb', 0, MIB);
	const theirs = {'job-id': 'theirs', 'device': 'vdb-a', 'speed': 1, 'auto-dismiss': false};
	await written.execute('block-commit', theirs);
	const states: string[] = [];
	let watched: Promise<WatchMessage[]> | undefined;
	const held = async (): Promise<void> => {
		const [ours] = (await listJobs({...request, sockets: [busy, free]})).filter(({run}) => run !== undefined);
		expect(await changeJobs(request, {kind: 'pause'})).toEqual([ours!.id]);
		states.push(...(await listJobs(request)).map(({status}) => status));
		expect(await changeJobs(request, {kind: 'speed', bytes: 0})).toEqual([ours!.id]);
		watched = lastValueFrom(watchJobs(request, ours!.id).pipe(toArray()));
		// A job that sleeps for its speed's sake wakes up by that, and comes to its end.
		await written.execute('job-resume', {id: ours!.id});
	};
	const committed = collect(
		commit({sockets: busy, signal: signal(), tell: () => undefined, disks: ['vda'], speed: 65536}),
		message => {
			if (message.kind === 'progress' && watched === undefined) {
				watched = Promise.resolve([]);
				return held();
			}
			return undefined;
		},
	);
	expect((await committed).at(-1)).toMatchObject({kind: 'finished'});
	expect(states.toSorted()).toEqual(['paused', 'running']);
	expect((await watched!).at(-1)).toEqual({kind: 'finished', failed: 0});
	await expect(changeJobs(request, {kind: 'cancel'})).rejects.toThrow('this VM has no job of this program');
	await expect(changeJobs(request, {kind: 'cancel'}, 'mine')).rejects.toMatchObject({
		code: 'USAGE',
		hint: 'Its jobs are: theirs.',
	});
	expect(await changeJobs(request, {kind: 'pause'}, 'theirs')).toEqual(['theirs']);
	expect(await changeJobs(request, {kind: 'resume'}, 'theirs')).toEqual(['theirs']);
	expect(await changeJobs(request, {kind: 'cancel'}, 'theirs')).toEqual(['theirs']);
	expect(await lastValueFrom(watchJobs(request).pipe(toArray()))).toContainEqual({
		kind: 'ended',
		id: 'theirs',
		error: 'Operation canceled',
	});
	// It is theirs to dismiss.
	expect((await inside(written.vm.qmp)).jobs).toEqual(['theirs']);
	await written.quit();
	expectContent(written, 'vda', `${written.folder}/vda.qcow2`);
});
