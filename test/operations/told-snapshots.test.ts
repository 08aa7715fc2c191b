import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {commit, type CommitRequest} from '../../src/operations/commit.ts';
import {recover} from '../../src/operations/recover.ts';
import {deleteSnapshot} from '../../src/operations/snapshot-delete.ts';
import {listVmSnapshots} from '../../src/operations/snapshot-list.ts';
import {stream, type StreamRequest} from '../../src/operations/stream.ts';
import {readableSnapshots} from '../../src/operations/snapshot-folders.ts';
import {openVm} from '../../src/operations/vm-session.ts';
import {requireSoundBases} from '../../src/snapshots/sound-snapshot.ts';
import {MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {quietRequest} from '../jobs/quiet-request.ts';
import {collect} from '../jobs/collect.ts';
import {whileWriting} from './chain-vm.ts';
import {textsOf} from './recovered.ts';
import {contentOf, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';
import {WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const DISK = {name: 'vda', sizeBytes: 4 * MIB, fill: 0xaa} as const;

/** A VM on a raw image with an overlay for each of these snapshots; and what they have to show. */
async function withSnapshots(...names: string[]) {
	const written = await new WrittenVm([DISK]).start();
	const held = new Map<string, Buffer>();
	for (const name of names) {
		finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: name})));
		held.set(name, Buffer.from(written.contents.get('vda')!));
		await written.writeAround('vda');
	}
	return {written, held, file: (name: string) => path.join(written.folder, name)};
}

const committing = (written: WrittenVm, wish: Partial<CommitRequest> = {}) =>
	collect(commit({...quietRequest(written.vm), ...wish}));
const streaming = (written: WrittenVm, wish: Partial<StreamRequest> = {}) =>
	collect(stream({...quietRequest(written.vm), ...wish}));
const remove = (written: WrittenVm, snapshot: string) =>
	lastValueFrom(deleteSnapshot({...snapshotRequest(written.vm), snapshot}).pipe(toArray()));

async function states(written: WrittenVm): Promise<Record<string, string>> {
	const {snapshots} = await listVmSnapshots(quietRequest(written.vm));
	return Object.fromEntries(snapshots.map(({name, state}) => [name, state]));
}

/** As it is told of, byte by byte; and that a revert would take it. */
async function expectShown(written: WrittenVm, name: string, held: ReadonlyMap<string, Buffer>): Promise<void> {
	const vm = await openVm(quietRequest(written.vm).sockets);
	try {
		const found = (await readableSnapshots(vm, undefined)).find(one => one.name === name)!;
		const [{base}] = found.manifest.disks as [(typeof found.manifest.disks)[number]];
		expect(contentOf(base.file, base.format).equals(held.get(name)!)).toBe(true);
		await requireSoundBases(found);
		execFileSync('sha256sum', ['--quiet', '-c', 'SHA256SUMS'], {cwd: found.folder});
	} finally {
		await vm.close();
	}
}

test('a commit tells the snapshots above it that their image has gone into another, and those within it are broken', async () => {
	const {written, held, file} = await withSnapshots('one', 'two', 'three', 'four');
	const layers = {disks: ['vda'], top: file('vda.two.qcow2'), base: file('vda.raw')};
	await whileWriting(written, committing(written, layers));
	expect(await states(written)).toEqual({one: 'broken', two: 'broken', three: 'whole', four: 'whole'});
	for (const name of ['three', 'four']) await expectShown(written, name, held);
	// There is nothing to merge for these.
	for (const name of ['one', 'two'])
		expect(await remove(written, name)).toMatchObject([{disks: []}, {kind: 'deleted'}]);
	await remove(written, 'three');
	await expectShown(written, 'four', held);
	expect(fs.existsSync(file('vda.three.qcow2'))).toBe(false);
});

test('a stream tells the snapshot beneath it over what it lies now', async () => {
	const {written, held, file} = await withSnapshots('one', 'two', 'three');
	await streaming(written, {disks: ['vda'], base: file('vda.raw'), delete: true});
	expect(await states(written)).toEqual({one: 'whole', two: 'broken', three: 'broken'});
	await expectShown(written, 'one', held);
	for (const name of ['two', 'three']) await remove(written, name);
	await remove(written, 'one');
	expect(await states(written)).toEqual({});
});

test('a snapshot whose base was merged into, or in part, is broken for good', async () => {
	const {written, held, file} = await withSnapshots('one', 'two');
	const tool = startToolAt('qmp <- block-commit #1', ['commit', '--qmp', written.vm.qmpPath]);
	expect(await tool.stopped, tool.stderr()).toBe(true);
	await tool.killBoth();
	await textsOf(recover(quietRequest(written.vm)));
	expect(await states(written)).toEqual({one: 'whole', two: 'broken'});
	await committing(written);
	// The same file again, of another snapshot.
	const again = {snapshot: 'again', overlayTemplate: 'vda.two.qcow2'};
	finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, again)));
	held.set('again', Buffer.from(written.contents.get('vda')!));
	await written.writeAround('vda');
	expect(await states(written)).toEqual({one: 'whole', two: 'broken', again: 'whole'});
	await remove(written, 'two');
	for (const name of ['one', 'again']) await expectShown(written, name, held);
	await written.quit();
	expect(contentOf(file('vda.two.qcow2')).equals(written.contents.get('vda')!)).toBe(true);
});
