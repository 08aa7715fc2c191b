import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {recover} from '../../src/operations/recover.ts';
import {deleteSnapshot, type DeleteSnapshotMessage} from '../../src/operations/snapshot-delete.ts';
import {listVmSnapshots} from '../../src/operations/snapshot-list.ts';
import {MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {contentOf, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {textsOf} from './recovered.ts';
import {startToolAt} from './tool-at-step.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

function remove(written: WrittenVm, snapshot: string, rest: {dryRun?: boolean} = {}): Promise<DeleteSnapshotMessage[]> {
	return lastValueFrom(deleteSnapshot({...snapshotRequest(written.vm), snapshot, ...rest}).pipe(toArray()));
}

async function list(written: WrittenVm) {
	return listVmSnapshots(snapshotRequest(written.vm));
}

test('snapshots are listed, and deleted by what moves less, while backups go on as increments', async () => {
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'}]).start();
	const repository = temporaryFolder();
	await written.back(repository);
	const held = new Map<string, Buffer>();
	for (const name of ['one', 'two', 'three']) {
		finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: name})));
		held.set(name, Buffer.from(written.contents.get('vda')!));
		// Much over the second, little over the others.
		await written.write('vda', 0, name === 'two' ? 4 * MIB : 512);
	}
	finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: 'inside', kind: 'internal'})));
	const report = await list(written);
	expect(report.snapshots.map(({name, kind, state}) => [name, kind, state])).toEqual([
		['one', 'external', 'whole'],
		['two', 'external', 'whole'],
		['three', 'external', 'whole'],
		['inside', 'internal', 'whole'],
	]);
	const file = (name: string) => path.join(written.folder, name);
	expect(report.disks[0]!.images.map(({file: image, holds, usedBy}) => ({image, holds, usedBy}))).toEqual([
		{image: file('vda.three.qcow2'), holds: [], usedBy: []},
		{image: file('vda.two.qcow2'), holds: ['three'], usedBy: [file('vda.three.qcow2')]},
		{image: file('vda.one.qcow2'), holds: ['two'], usedBy: [file('vda.two.qcow2')]},
		{image: file('vda.qcow2'), holds: ['one'], usedBy: [file('vda.one.qcow2')]},
	]);
	await expect(remove(written, 'four')).rejects.toThrow(/^this VM has no snapshot 'four'/);
	expect((await remove(written, 'inside', {dryRun: true})).at(-1)).toMatchObject({kind: 'held', disks: ['vda']});
	await remove(written, 'inside');
	const point = await written.back(repository);
	expect(storedAs(point, 'vda').kind).toBe('incremental');

	// In the middle: down, into what the first lies under.
	const planned = await remove(written, 'two', {dryRun: true});
	expect(planned).toMatchObject([{kind: 'planned', disks: [{kind: 'commit', into: file('vda.one.qcow2')}]}]);
	await remove(written, 'two');
	const after = await list(written);
	expect(after.snapshots.map(({name, state}) => [name, state])).toEqual([
		['one', 'whole'],
		['three', 'whole'],
	]);
	expect(contentOf(file('vda.one.qcow2')).equals(held.get('three')!)).toBe(true);
	expect(contentOf(file('vda.qcow2')).equals(held.get('one')!)).toBe(true);
	expect(fs.existsSync(file('vda.two.qcow2'))).toBe(false);
	const second = await written.back(repository);
	expect(storedAs(second, 'vda')).toMatchObject({kind: 'incremental', parent: point.finished.manifest.id});
	expectHeld(second);

	// At the top little was written: down, and the disk pivots.
	expect(await remove(written, 'three')).toContainEqual(expect.objectContaining({kind: 'deleted'}));
	await written.writeAround('vda');
	const third = await written.back(repository);
	expect(storedAs(third, 'vda')).toMatchObject({kind: 'incremental', parent: second.finished.manifest.id});
	expectHeld(third);
	// The lowest holds more than what was written over it.
	await remove(written, 'one');
	expect((await list(written)).snapshots).toEqual([]);
	await written.quit();
	expect(contentOf(file('vda.qcow2')).equals(written.contents.get('vda')!)).toBe(true);
	expect(fs.readdirSync(written.folder)).toEqual(['vda.qcow2']);
}, 120_000);

test.each([
	{step: 'qmp <- block-commit #1', says: undefined, left: ['one']},
	{step: 'qmp <- blockdev-del #1', says: 'deleted the snapshot one, whose images had been merged', left: []},
	{step: 'host rename one #1', says: 'removed the rest of the snapshot one, which was deleted', left: []},
])('a deletion that is killed ($step) leaves the snapshot or none of it', async ({step, says, left}) => {
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'}]).start();
	finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: 'one'})));
	await written.writeAround('vda');
	const tool = startToolAt(step, ['snapshot', 'delete', '--qmp', written.vm.qmpPath, 'one']);
	expect(await tool.stopped).toBe(true);
	await written.writeAround('vda');
	await tool.killBoth();
	const sockets = {qmp: {unix: written.vm.qmpPath}};
	const words = await textsOf(recover({sockets, signal: new AbortController().signal, tell: () => undefined}));
	if (says !== undefined) expect(words).toContain(says);
	const {snapshots} = await list(written);
	// Something of what was written since may be in its base by now.
	expect(snapshots.map(({name, state}) => [name, state])).toEqual(left.map(name => [name, 'broken']));
	if (left.length > 0) await remove(written, 'one');
	await written.writeAround('vda');
	await written.quit();
	expect(fs.readdirSync(written.folder)).toEqual(['vda.qcow2']);
	expect(contentOf(path.join(written.folder, 'vda.qcow2')).equals(written.contents.get('vda')!)).toBe(true);
});
