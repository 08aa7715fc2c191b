import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {concatMap} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {commit, type CommitRequest, type MergeMessage} from '../../src/operations/commit.ts';
import {eventually, inside, isRunning, MIB, ownRuntimeFolder, startVm} from '../jobs/bare-vm.ts';
import {expectNothingLeftOutside} from '../jobs/backups.ts';
import {qemuImg, temporaryFolder, temporaryMount} from '../repository/fixture.ts';
import {collect} from '../jobs/collect.ts';
import {chainOf, expectContent, putOverlay, whileWriting} from './chain-vm.ts';
import {startToolAt} from './tool-at-step.ts';
import {WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

function committing(written: WrittenVm, wish: Partial<CommitRequest> = {}): Promise<MergeMessage[]> {
	return collect(commit({...requestOf(written), ...wish}));
}

function requestOf({vm}: WrittenVm): CommitRequest {
	return {sockets: {qmp: {unix: vm.qmpPath}}, signal: new AbortController().signal, tell: () => undefined};
}

function base(written: WrittenVm, disk: string): string {
	return path.join(written.folder, `${disk}.qcow2`);
}

test('the overlay of each disk goes into its base under writes, is removed, and the VM starts from the base', async () => {
	const written = await new WrittenVm().start();
	const overlays = [await putOverlay(written, 'vda', 'a'), await putOverlay(written, 'vdb', 'a')];
	await written.write('vda', MIB, MIB);
	const planned = await committing(written, {dryRun: true});
	expect(planned).toEqual([
		{
			kind: 'planned',
			vm: 'web',
			disks: ['vda', 'vdb'].map((disk, nth) => ({
				...{disk, kind: 'active', into: base(written, disk), going: [overlays[nth]]},
				bytes: expect.any(Number) as number,
			})),
		},
		{kind: 'finished', dryRun: true, disks: ['vda', 'vdb'], moved: []},
	]);
	const messages = await whileWriting(written, committing(written));
	expect(messages.at(-1)).toEqual({kind: 'finished', dryRun: false, disks: ['vda', 'vdb'], moved: []});
	expect(messages.filter(({kind}) => kind === 'removed')).toEqual(overlays.map(file => ({kind: 'removed', file})));
	expect(overlays.filter(file => fs.existsSync(file))).toEqual([]);
	expectNothingLeftOutside(temporaryFolder());
	await written.writeAround('vda');
	await written.quit();
	for (const disk of ['vda', 'vdb']) expectContent(written, disk, base(written, disk));
	await written.start();
});

test('layers in the middle go into one beneath, and what lay on them names that', async () => {
	const written = await new WrittenVm().start();
	for (const name of ['a', 'b', 'c']) {
		await putOverlay(written, 'vda', name);
		await written.writeAround('vda');
	}
	const [a, b, c] = ['a', 'b', 'c'].map(name => path.join(written.folder, `vda.${name}.qcow2`));
	const messages = await whileWriting(
		written,
		committing(written, {disks: ['vda'], top: b, base: base(written, 'vda'), keep: true}),
	);
	expect(messages.filter(({kind}) => ['merged', 'kept', 'finished'].includes(kind))).toEqual([
		{kind: 'merged', disk: 'vda', into: base(written, 'vda'), liesOn: c},
		...[b, a].map(file => ({kind: 'kept', file, why: null})),
		{kind: 'finished', dryRun: false, disks: ['vda'], moved: []},
	]);
	expect((await chainOf(written, 'vda')).map(({name}) => name)).toEqual(['vda-c', 'vda-node']);
	expect((await inside(written.vm.qmp)).nodes).toEqual(['vda-c', 'vda-node', 'vdb-node']);
	for (const file of [a!, b!]) fs.rmSync(file);
	await written.quit();
	expect(JSON.parse(qemuImg('info', '--output=json', c!))).toMatchObject({'backing-filename': base(written, 'vda')});
	expectContent(written, 'vda', c!);
});

test('what others use is not touched, and it is said who they are', async () => {
	const written = await new WrittenVm().start();
	const overlay = await putOverlay(written, 'vda', 'a');
	const sibling = path.join(written.folder, 'sibling.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', '-b', path.basename(base(written, 'vda')), '-F', 'qcow2', sibling);
	await expect(committing(written)).rejects.toMatchObject({
		code: 'REFUSED',
		message: `vda: ${base(written, 'vda')} is also used by ${sibling}, which lies on it`,
	});
	const other = await startVm([{name: 'vda', sizeBytes: MIB, format: 'qcow2', image: sibling}], {name: 'clone'});
	fs.rmSync(sibling);
	await expect(committing(written)).rejects.toThrow(
		`vda: ${base(written, 'vda')} is also used by VM clone (process ${other.pid})`,
	);
	await other.kill();
	expect((await inside(written.vm.qmp)).jobs).toEqual([]);
	await committing(written);
	expect(fs.existsSync(overlay)).toBe(false);
});

test('what cannot go well is refused before anything is changed', async () => {
	const written = await new WrittenVm().start();
	await expect(committing(written)).rejects.toThrow('every disk of this VM lies on one image alone');
	await expect(committing(written, {disks: ['vda']})).rejects.toThrow(
		`vda lies on one image alone, ${base(written, 'vda')}: nothing can be merged`,
	);
	await expect(committing(written, {disks: ['vdz']})).rejects.toMatchObject({code: 'USAGE'});
	const overlay = await putOverlay(written, 'vda', 'a');
	const wrong = {disks: ['vda'], top: base(written, 'vda')};
	await expect(committing(written, wrong)).rejects.toThrow(/^vda: nothing lies beneath /);
	await expect(committing(written, {disks: ['vda'], base: '/nowhere'})).rejects.toThrow(
		'--base: vda does not lie on /nowhere',
	);
	await expect(committing(written, {disks: ['vda'], base: overlay})).rejects.toMatchObject({code: 'USAGE'});
	const aside = `${base(written, 'vda')}.aside`;
	fs.renameSync(base(written, 'vda'), aside);
	await expect(committing(written)).rejects.toThrow(`vda: its base ${base(written, 'vda')} is missing`);
	fs.renameSync(aside, base(written, 'vda'));
	await written.execute('block-commit', {'job-id': 'theirs', 'device': 'vda-a', 'speed': 1, 'auto-dismiss': false});
	await expect(committing(written)).rejects.toThrow('another job is at work on vda');
	expect((await inside(written.vm.qmp)).jobs).toEqual(['theirs']);
});

test('a base on a file system that is read-only by now is refused', async () => {
	const mount = temporaryMount(20);
	const beneath = path.join(mount, 'base.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', beneath, '4M');
	const image = path.join(temporaryFolder(), 'overlay.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', '-b', beneath, '-F', 'qcow2', image);
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 4 * MIB, format: 'qcow2', image}]).start();
	execFileSync('mount', ['-o', 'remount,ro', mount]);
	await expect(committing(written)).rejects.toThrow(`vda: its base ${beneath} is on a read-only file system`);
	expect((await inside(written.vm.qmp)).jobs).toEqual([]);
});

test('of two commits at once one is refused, and the other goes on', async () => {
	const written = await new WrittenVm().start(undefined, ['-qmp', 'unix:third.sock,server=on,wait=off']);
	const overlay = await putOverlay(written, 'vda', 'a');
	await written.write('vda', 0, 4 * MIB);
	const third = {qmp: {unix: path.join(written.vm.dir, 'third.sock')}};
	const refused: unknown[] = [];
	const first$ = commit({...requestOf(written), speed: 4 * MIB}).pipe(
		concatMap(async message => {
			if (message.kind === 'planned')
				await committing(written, {sockets: third}).catch((error: unknown) => refused.push(error));
			return message;
		}),
	);
	await collect(first$);
	expect(refused).toMatchObject([{code: 'LOCKED'}]);
	expect(fs.existsSync(overlay)).toBe(false);
	await written.quit();
	expectContent(written, 'vda', base(written, 'vda'));
});

test('a base is enlarged where the disk was, and a larger one is refused', async () => {
	const written = await new WrittenVm().start();
	const overlay = await putOverlay(written, 'vda', 'a');
	await written.execute('block_resize', {'node-name': 'vda-a', 'size': 10 * MIB});
	const grown = Buffer.alloc(10 * MIB);
	written.contents.get('vda')!.copy(grown);
	written.contents.set('vda', grown);
	await written.write('vda', 9 * MIB, MIB);
	const messages = await committing(written);
	expect(messages).toContainEqual({
		kind: 'warning',
		text: `vda: the base ${base(written, 'vda')} is enlarged from ${8 * MIB} to ${10 * MIB} bytes`,
	});
	qemuImg('create', '-q', '-f', 'qcow2', '-b', base(written, 'vda'), '-F', 'qcow2', overlay, '4M');
	await written.execute('blockdev-add', {
		...{'driver': 'qcow2', 'node-name': 'small', 'backing': null},
		file: {driver: 'file', filename: overlay},
	});
	await written.execute('blockdev-snapshot', {node: 'vda-node', overlay: 'small'});
	await expect(committing(written)).rejects.toThrow(
		/^vda: the base .* is larger \(10485760 bytes\) than what lies on it$/,
	);
	await written.quit();
	expectContent(written, 'vda', base(written, 'vda'));
});

test.each([
	{step: 'qmp <- block-commit #2', on: 'overlay'},
	{step: 'qmp -> job-complete #1', on: 'either'},
	{step: 'host rm vda.a.qcow2 #1', on: 'base'},
] as const)('killed at $step, its guard cleans up, and no byte is lost', async ({step, on}) => {
	const written = await new WrittenVm().start();
	for (const disk of ['vda', 'vdb']) await putOverlay(written, disk, 'a');
	await written.write('vda', 0, 2 * MIB);
	await written.write('vdb', 0, MIB);
	const tool = startToolAt(step, ['commit', '--qmp', written.vm.qmpPath]);
	expect(await tool.stopped, tool.stderr()).toBe(true);
	await written.writeAround('vda');
	const guard = await tool.killAlone();
	await eventually(() => !isRunning(guard), 30_000);
	expectNothingLeftOutside(temporaryFolder());
	expect((await inside(written.vm.qmp)).jobs).toEqual([]);
	for (const {name} of written.disks) {
		await written.writeAround(name);
		const [top] = await chainOf(written, name);
		const overlay = path.join(written.folder, `${name}.a.qcow2`);
		// An overlay is there for as long as the disk lies on it.
		expect(fs.existsSync(overlay), tool.stderr()).toBe(top.name !== `${name}-node`);
		if (on !== 'either') expect(top.name).toBe(on === 'base' ? `${name}-node` : `${name}-a`);
	}
	const nodes = await Promise.all(['vda', 'vdb'].map(disk => chainOf(written, disk)));
	expect((await inside(written.vm.qmp)).nodes).toEqual(nodes.flatMap(chain => chain.map(({name}) => name)).sort());
	if (nodes.some(chain => chain.length > 1)) await committing(written);
	await written.quit();
	for (const disk of ['vda', 'vdb']) expectContent(written, disk, base(written, disk));
});
