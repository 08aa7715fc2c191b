import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {recover} from '../../src/operations/recover.ts';
import {MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';
import {WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const DISKS = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'},
	{name: 'vdb', sizeBytes: 4 * MIB, fill: 0xbb, format: 'qcow2'},
] as const;

/** What an image held when the snapshot was taken, with QEMU's tool alone. */
function contentAt(image: string, snapshot: string): Buffer {
	const raw = path.join(temporaryFolder(), 'content.raw');
	qemuImg('convert', '-U', '-f', 'qcow2', '-O', 'raw', '-l', `snapshot.name=${snapshot}`, image, raw);
	return fs.readFileSync(raw);
}

test('an internal snapshot keeps in the images what all of them held at one instant', async () => {
	const written = await new WrittenVm(DISKS).start();
	for (const {name} of DISKS) await written.writeAround(name);
	const held = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
	const request = snapshotRequest(written.vm, {kind: 'internal', snapshot: 'one'});
	const {manifest, folder} = finishedSnapshot(await snapshotOf(request));
	expect(manifest).toMatchObject({kind: 'internal', consistency: 'crash-consistent'});
	expect(folder).toBe(path.join(written.folder, 'web.snapshots', 'one'));
	for (const {name} of DISKS) await written.writeAround(name);
	await expect(snapshotOf(request)).rejects.toThrow(/^a snapshot cannot be called one: there is one of that name/);
	fs.rmSync(path.dirname(folder), {recursive: true});
	await expect(snapshotOf(request)).rejects.toThrow(/^a snapshot cannot be called one: /);
	await written.quit();
	for (const {name} of DISKS) {
		const image = path.join(written.folder, `${name}.qcow2`);
		expect(contentAt(image, 'one').equals(held.get(name)!)).toBe(true);
		expect(qemuImg('check', '-f', 'qcow2', image)).toContain('No errors');
	}
});

test('what cannot keep one is refused by name, and firmware or raw disks can be left out', async () => {
	const written = await new WrittenVm([...DISKS, {name: 'vdc', sizeBytes: MIB}]).start();
	const kind = 'internal';
	await expect(snapshotOf(snapshotRequest(written.vm, {kind}))).rejects.toThrow(
		/^no internal snapshot can be taken of vdc: it is a raw image/,
	);
	const {manifest} = finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {kind, exclude: ['vdc']})));
	expect(manifest.disks.map(({name}) => name)).toEqual(['vda', 'vdb']);
});

test.each([
	{step: 'qmp -> transaction #1', says: /(?:finished|removed the unfinished) (?:the )?snapshot one/},
	{step: 'qmp <- transaction #1', says: /finished the snapshot one .*: its images have it/},
])('one whose run is killed ($step) is finished or undone', async ({step, says}) => {
	const written = await new WrittenVm(DISKS).start();
	const args = ['snapshot', 'create', '--qmp', written.vm.qmpPath, 'one', '--internal', '--quiesce', 'never'];
	const tool = startToolAt(step, args);
	expect(await tool.stopped).toBe(true);
	await tool.killBoth();
	const sockets = {qmp: {unix: written.vm.qmpPath}};
	const words = await textsOf(recover({sockets, signal: new AbortController().signal, tell: () => undefined}));
	expect(words.join('\n')).toMatch(says);
	const isFinished = words.join('\n').includes('finished the');
	expect(fs.existsSync(path.join(written.folder, 'web.snapshots', 'one'))).toBe(isFinished);
	expect(qemuImg('snapshot', '-U', '-l', path.join(written.folder, 'vdb.qcow2')).includes('one')).toBe(isFinished);
});
