import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {recover} from '../../src/operations/recover.ts';
import {revertOff, type RevertOffRequest} from '../../src/operations/revert-off.ts';
import {MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {contentOf, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

type Held = ReadonlyMap<string, Buffer>;

/** A VM that runs, with a snapshot `before` inside its images; and what the disks held then. */
async function scene(): Promise<{written: WrittenVm; held: Held}> {
	const written = await new WrittenVm().start();
	for (const {name} of written.disks) await written.writeAround(name);
	const held = heldBy(written);
	finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {kind: 'internal', snapshot: 'first'})));
	return {written, held};
}

function heldBy({contents}: WrittenVm): Held {
	return new Map([...contents].map(([disk, content]) => [disk, Buffer.from(content)]));
}

function goBackTo(written: WrittenVm, held: Held): void {
	for (const [disk, content] of held) written.contents.set(disk, Buffer.from(content));
}

function expectImages(written: WrittenVm, held: Held): void {
	for (const [disk, content] of held) {
		expect(contentOf(written.image(disk)).equals(content), disk).toBe(true);
		expect(qemuImg('check', '-f', 'qcow2', written.image(disk))).toContain('No errors');
	}
}

function requestFor(written: WrittenVm, rest: Partial<RevertOffRequest> = {}): RevertOffRequest {
	const images = written.disks.map(({name, format}) => ({disk: name, path: written.image(name), format}));
	return {
		vm: {name: 'web', images},
		...{snapshot: 'first', dropBitmaps: false, dropNamed: []},
		signal: new AbortController().signal,
		tell: () => undefined,
		...rest,
	};
}

function run(request: RevertOffRequest) {
	return lastValueFrom(revertOff(request).pipe(toArray()));
}

test('images go back to a snapshot inside them, and no increment is counted from before', async () => {
	const {written, held} = await scene();
	const repository = temporaryFolder();
	const points = [await written.back(repository)];
	for (const {name} of written.disks) await written.writeAround(name);
	points.push(await written.back(repository));
	await expect(run(requestFor(written))).rejects.toThrow(/is in use: VM web \(process \d+\) has it open/);
	await written.quit();
	const after = heldBy(written);
	await expect(run(requestFor(written))).rejects.toThrow(/while its disks have bitmaps: qsc-/);
	expectImages(written, after);
	const messages = await run(requestFor(written, {dropBitmaps: true}));
	expect(messages.at(-1)).toMatchObject({kind: 'finished', disks: ['vda', 'vdb'], status: 'off'});
	expectImages(written, held);
	goBackTo(written, held);
	points.push(await written.backOff(repository));
	expect(storedAs(points.at(-1)!, 'vda')).toMatchObject({
		kind: 'full',
		reason: expect.stringContaining('bitmap') as string,
	});
	await written.start();
	for (const {name} of written.disks) await written.writeAround(name);
	points.push(await written.back(repository));
	expect(['vda', 'vdb'].map(disk => storedAs(points.at(-1)!, disk).kind)).toEqual(['incremental', 'incremental']);
	for (const point of points) expectHeld(point);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});

test('a revert that is killed in the middle is told of, until it is run again', async () => {
	const {written, held} = await scene();
	for (const {name} of written.disks) await written.writeAround(name);
	await written.quit();
	const images = written.disks.flatMap(({name}) => ['--image', `${name}=${written.image(name)},format=qcow2`]);
	const args = ['revert', 'web@first', ...images];
	const tool = startToolAt('host start qemu-img snapshot #2', args);
	expect(await tool.stopped).toBe(true);
	await tool.killBoth();
	await written.start();
	const recovery = () => textsOf(recover(snapshotRequest(written.vm)));
	for (let times = 0; times < 2; times++) {
		expect((await recovery()).join('\n')).toMatch(/a revert to first was not ended: of vda, vdb some may be at it/);
	}
	await written.quit();
	await run(requestFor(written));
	expectImages(written, held);
	await written.start();
	expect(await recovery()).toEqual([]);
});

test('nothing is changed where not all images can go back', async () => {
	const {written} = await scene();
	await written.writeAround('vda');
	await written.quit();
	const after = heldBy(written);
	qemuImg('snapshot', '-d', 'first', written.image('vdb'));
	await expect(run(requestFor(written))).rejects.toThrow(
		/^vdb cannot be brought back: .* has no snapshot first in itself/,
	);
	qemuImg('snapshot', '-c', 'first', written.image('vdb'));
	const raw = {disk: 'vdc', path: path.join(written.folder, 'vdc.raw'), format: 'raw' as const};
	fs.writeFileSync(raw.path, Buffer.alloc(MIB));
	const {vm} = requestFor(written);
	await expect(run(requestFor(written, {vm: {...vm, images: [...vm.images, raw]}}))).rejects.toThrow(
		/^vdc cannot be brought back: it is a raw image/,
	);
	const over = path.join(written.folder, 'over.qcow2');
	qemuImg('create', '-f', 'qcow2', '-F', 'qcow2', '-b', written.image('vdb'), over);
	await expect(run(requestFor(written))).rejects.toThrow(/vdb.qcow2 is not to be changed: .*over.qcow2 lies on it/);
	fs.rmSync(over);
	expectImages(written, after);
	expect(fs.readdirSync(path.join(written.folder, 'web.snapshots'))).toEqual(['first']);
	// Two of one name, of which nobody can say which is meant; and an id that is another one's name.
	qemuImg('snapshot', '-c', '1', written.image('vda'));
	qemuImg('snapshot', '-c', 'first', written.image('vdb'));
	await expect(run(requestFor(written))).rejects.toThrow(/vdb.qcow2 has more than one snapshot first/);
	await run(requestFor(written, {snapshot: '1', exclude: ['vdb']}));
	expectImages(written, after);
});
