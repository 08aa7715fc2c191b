import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import type {MergeMessage} from '../../src/operations/commit.ts';
import {stream, type StreamRequest} from '../../src/operations/stream.ts';
import {eventually, inside, isRunning, MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {expectNothingLeftOutside} from '../jobs/backups.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {collect} from '../jobs/collect.ts';
import {chainOf, expectContent, putOverlay, whileWriting} from './chain-vm.ts';
import {startToolAt} from './tool-at-step.ts';
import {WrittenVm} from './written-vm.ts';

const CLUSTER = 65536;
const LASTING = 'qsc-0123456789ab-point-aaaaaa';

beforeEach(() => {
	ownRuntimeFolder();
});

function streaming(written: WrittenVm, wish: Partial<StreamRequest> = {}): Promise<MergeMessage[]> {
	const sockets = {qmp: {unix: written.vm.qmpPath}};
	return collect(stream({sockets, signal: new AbortController().signal, tell: () => undefined, ...wish}));
}

test('two disks under writes become images that lie on nothing, with the bitmaps of what lay beneath', async () => {
	const written = await new WrittenVm().start();
	const node = {node: 'vda-node', name: LASTING, persistent: true, granularity: CLUSTER};
	await written.execute('block-dirty-bitmap-add', node);
	await written.write('vda', 0, CLUSTER);
	await putOverlay(written, 'vda', 'a', [LASTING]);
	await written.write('vda', MIB, CLUSTER);
	const tops = [await putOverlay(written, 'vda', 'b', [LASTING]), await putOverlay(written, 'vdb', 'a')];
	await written.write('vda', 2 * MIB, CLUSTER);
	const quiet = await streaming(written, {disks: ['vda']});
	expect(quiet.at(-1)).toEqual({kind: 'finished', dryRun: false, disks: ['vda'], moved: []});
	expect((await chainOf(written, 'vda')).map(({bitmaps}) => bitmaps)).toEqual([
		[expect.objectContaining({name: LASTING, dirtyBytes: 3 * CLUSTER, recording: true, persistent: true})],
	]);
	const messages = await whileWriting(written, streaming(written, {delete: true}));
	const beneath = path.join(written.folder, 'vdb.qcow2');
	expect(messages.filter(({kind}) => ['removed', 'kept'].includes(kind))).toEqual([{kind: 'removed', file: beneath}]);
	expect(await inside(written.vm.qmp)).toEqual({jobs: [], nodes: ['vda-b', 'vdb-a']});
	expect(fs.existsSync(path.join(written.folder, 'vda.qcow2'))).toBe(true);
	fs.rmSync(path.join(written.folder, 'vda.qcow2'));
	expectNothingLeftOutside(temporaryFolder());
	await written.quit();
	expectContent(written, 'vda', tops[0]!);
	expectContent(written, 'vdb', tops[1]!);
});

test('what lies under --base stays, and what others use is not removed', async () => {
	const written = await new WrittenVm().start();
	for (const name of ['a', 'b', 'c']) {
		await putOverlay(written, 'vda', name);
		await written.writeAround('vda');
	}
	const [a, b, c] = ['a', 'b', 'c'].map(name => path.join(written.folder, `vda.${name}.qcow2`));
	const sibling = path.join(written.folder, 'sibling.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', '-b', a!, '-F', 'qcow2', sibling);
	const messages = await whileWriting(
		written,
		streaming(written, {disks: ['vda'], base: path.join(written.folder, 'vda.qcow2'), delete: true}),
	);
	expect(messages.filter(({kind}) => ['removed', 'kept'].includes(kind))).toEqual([
		{kind: 'kept', file: a, why: `it is used by ${sibling}, which lies on it`},
		{kind: 'removed', file: b},
	]);
	expect((await chainOf(written, 'vda')).map(({name}) => name)).toEqual(['vda-c', 'vda-node']);
	await written.quit();
	expectContent(written, 'vda', c!);
});

test('cancelled before the end, a disk lies on what it lay on, and holds every byte', async () => {
	const written = await new WrittenVm().start();
	const overlay = await putOverlay(written, 'vda', 'a');
	const cancelling = new AbortController();
	const sockets = {qmp: {unix: written.vm.qmpPath}};
	const slow = stream({sockets, signal: cancelling.signal, tell: () => undefined, disks: ['vda'], speed: CLUSTER});
	const cancelled = collect(slow, async ({kind}) => {
		if (kind !== 'progress' || cancelling.signal.aborted) return;
		cancelling.abort(new Error('enough'));
		await written.writeAround('vda');
	});
	await expect(cancelled).rejects.toThrow('enough');
	expect((await inside(written.vm.qmp)).jobs).toEqual([]);
	expect((await chainOf(written, 'vda')).map(({name}) => name)).toEqual(['vda-a', 'vda-node']);
	await written.quit();
	expectContent(written, 'vda', overlay);
});

test('killed once all is pulled up, it is settled by its guard', async () => {
	const written = await new WrittenVm().start();
	const overlay = await putOverlay(written, 'vda', 'a');
	const tool = startToolAt('qmp <- job-finalize #1', ['stream', '--qmp', written.vm.qmpPath, '--delete']);
	expect(await tool.stopped, tool.stderr()).toBe(true);
	await written.writeAround('vda');
	const guard = await tool.killAlone();
	await eventually(() => !isRunning(guard), 30_000);
	expectNothingLeftOutside(temporaryFolder());
	expect(await inside(written.vm.qmp)).toEqual({jobs: [], nodes: ['vda-a', 'vdb-node']});
	expect(fs.existsSync(path.join(written.folder, 'vda.qcow2')), tool.stderr()).toBe(false);
	await written.writeAround('vda');
	await written.quit();
	expectContent(written, 'vda', overlay);
});
