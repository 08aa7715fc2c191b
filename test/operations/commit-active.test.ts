import {type Observable} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import type {ChainPace} from '../../src/operations/chain-work.ts';
import {commitActive, type CommitActiveMessage} from '../../src/operations/commit-active.ts';
import {withVm} from '../../src/operations/with-vm.ts';
import {inside, MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {collect} from '../jobs/collect.ts';
import {chainOf, diskOf, expectContent, putOverlay, whileWriting} from './chain-vm.ts';
import {WrittenVm} from './written-vm.ts';

const CLUSTER = 65536;
const SINCE_BASE = 'qsc-0123456789ab-base-aaaaaa';
const SINCE_OVERLAY = 'qsc-0123456789ab-overlay-aaaaaa';

beforeEach(() => {
	ownRuntimeFolder();
});

interface Wish {
	readonly disk: string;
	/** How many layers go. */
	readonly layers?: number;
}

/** Of the chains as they are when it is called. */
async function committing(
	written: WrittenVm,
	wishes: readonly Wish[],
	{pace = {}, signal = new AbortController().signal, told = []}: How = {},
): Promise<Observable<CommitActiveMessage>> {
	const commits = await Promise.all(
		wishes.map(async ({disk: name, layers = 1}) => {
			const disk = await diskOf(written, name);
			return {disk, base: disk.medium.chain[layers]!.name};
		}),
	);
	const request = {sockets: {qmp: {unix: written.vm.qmpPath}}, signal, tell: (text: string) => told.push(text)};
	return withVm(request, 'commit', (vm, run) => commitActive({request, vm, run}, commits, pace));
}

interface How {
	readonly pace?: ChainPace;
	readonly signal?: AbortSignal;
	readonly told?: string[];
}

test('two disks under writes pivot to their bases, which hold every byte and every bitmap', async () => {
	const written = await new WrittenVm().start();
	await written.execute('block-dirty-bitmap-add', {
		node: 'vda-node',
		name: SINCE_BASE,
		persistent: true,
		granularity: CLUSTER,
	});
	await putOverlay(written, 'vda', 'a', [SINCE_BASE]);
	await written.write('vda', 0, 2 * CLUSTER);
	await putOverlay(written, 'vda', 'b', [SINCE_BASE, SINCE_OVERLAY]);
	await putOverlay(written, 'vdb', 'a');
	await written.write('vda', MIB, CLUSTER);
	await written.write('vdb', 0, MIB);
	const messages = await whileWriting(
		written,
		collect(await committing(written, [{disk: 'vda', layers: 2}, {disk: 'vdb'}]), async ({kind}) => {
			if (kind === 'pivoting') await written.write('vda', 3 * MIB, CLUSTER);
		}),
	);
	expect(messages.filter(({kind}) => kind === 'pivoted')).toEqual([
		{kind: 'pivoted', disk: 'vda', node: 'vda-node', stillUsed: []},
		{kind: 'pivoted', disk: 'vdb', node: 'vdb-node', stillUsed: []},
	]);
	expect(await inside(written.vm.qmp)).toEqual({jobs: [], nodes: ['vda-node', 'vdb-node']});
	expect((await chainOf(written, 'vda')).map(({name}) => name)).toEqual(['vda-node']);
	await written.writeAround('vda');
	expect((await written.bitmaps('vda')).toSorted((a, b) => a.name.localeCompare(b.name))).toEqual(
		[SINCE_BASE, SINCE_OVERLAY].map(name => ({name, persistent: true, recording: true})),
	);
	await written.quit();
	for (const disk of ['vda', 'vdb']) expectContent(written, disk, `${written.folder}/${disk}.qcow2`);
});

test('a bitmap that began on the overlay has what was written since, and no more; another tells why it is lost', async () => {
	const written = await new WrittenVm().start();
	await putOverlay(written, 'vda', 'a');
	await written.write('vda', 0, MIB);
	await putOverlay(written, 'vda', 'b', ['theirs', SINCE_OVERLAY]);
	await written
		.execute('block-dirty-bitmap-add', {node: 'vda-a', name: SINCE_BASE, granularity: CLUSTER})
		.catch(() => undefined);
	await written.write('vda', 2 * MIB, CLUSTER);
	const messages = await collect(await committing(written, [{disk: 'vda', layers: 2}]));
	await written.write('vda', 4 * MIB, CLUSTER);
	const [{bitmaps}] = await chainOf(written, 'vda');
	expect(bitmaps).toEqual([expect.objectContaining({name: SINCE_OVERLAY, dirtyBytes: 2 * CLUSTER})]);
	expect(messages.flatMap(message => (message.kind === 'warning' ? [message.text] : [])).toSorted()).toEqual([
		`vda: bitmap ${SINCE_BASE} is lost: not every layer has recorded in it`,
		'vda: bitmap theirs is lost: it is of another program, and not on vda-node',
	]);
	await written.quit();
	expectContent(written, 'vda', `${written.folder}/vda.qcow2`);
});

test('cancelled before the pivot, the disks stay on their overlays, and a second try succeeds', async () => {
	const written = await new WrittenVm().start();
	const overlay = await putOverlay(written, 'vda', 'a');
	await putOverlay(written, 'vdb', 'a');
	await written.write('vda', 0, 4 * MIB);
	const cancelling = new AbortController();
	const slow = await committing(written, [{disk: 'vda'}, {disk: 'vdb'}], {
		pace: {speed: CLUSTER},
		signal: cancelling.signal,
	});
	const cancelled = collect(slow, ({kind}) => {
		if (kind === 'progress') cancelling.abort(new Error('enough'));
	});
	await expect(whileWriting(written, cancelled)).rejects.toThrow('enough');
	expect(await inside(written.vm.qmp)).toEqual({jobs: [], nodes: ['vda-a', 'vda-node', 'vdb-a', 'vdb-node']});
	expect((await chainOf(written, 'vda'))[0].filename).toBe(overlay);
	const again = collect(await committing(written, [{disk: 'vda'}, {disk: 'vdb'}]));
	expect(await whileWriting(written, again)).toContainEqual(expect.objectContaining({kind: 'pivoted', disk: 'vdb'}));
	await written.quit();
	for (const disk of ['vda', 'vdb']) expectContent(written, disk, `${written.folder}/${disk}.qcow2`);
});

test('a speed that would never do is lifted at half the deadline', async () => {
	const written = await new WrittenVm().start();
	await putOverlay(written, 'vda', 'a');
	await written.write('vda', 0, 8 * MIB);
	const messages = await collect(
		await committing(written, [{disk: 'vda'}], {pace: {speed: CLUSTER, deadlineMs: 4_000}}),
	);
	expect(messages).toContainEqual({
		kind: 'warning',
		text: 'vda: would not come to its end at that speed, which is lifted',
	});
	await written.quit();
	expectContent(written, 'vda', `${written.folder}/vda.qcow2`);
});

test('a job that is late is cancelled, and so is that of the other disk', async () => {
	const written = await new WrittenVm().start();
	const overlay = await putOverlay(written, 'vda', 'a');
	await putOverlay(written, 'vdb', 'a');
	await written.write('vda', 0, 8 * MIB);
	let isPaused = false;
	const late = collect(
		await committing(written, [{disk: 'vda'}, {disk: 'vdb'}], {pace: {speed: CLUSTER, deadlineMs: 2_000}}),
		async message => {
			if (message.kind !== 'progress' || isPaused) return;
			isPaused = true;
			const jobs = await written.vm.qmp.execute('query-jobs');
			for (const {id} of jobs.filter(({id}) => id.endsWith('-vda'))) await written.execute('job-pause', {id});
		},
	);
	await expect(late).rejects.toMatchObject({
		code: 'JOB_FAILED',
		message: expect.stringMatching(/^vda: not done after 2 s/) as string,
	});
	expect((await inside(written.vm.qmp)).jobs).toEqual([]);
	await written.quit();
	expectContent(written, 'vda', overlay);
});
