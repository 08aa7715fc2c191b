import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {commit, type MergeMessage} from '../../src/operations/commit.ts';
import {createSnapshot} from '../../src/operations/snapshot-create.ts';
import {deleteSnapshot} from '../../src/operations/snapshot-delete.ts';
import {listVmSnapshots} from '../../src/operations/snapshot-list.ts';
import {stream} from '../../src/operations/stream.ts';
import type {NamedImage} from '../../src/operations/vm-images.ts';
import {MIB, ownRuntimeFolder, processesNaming} from '../jobs/bare-vm.ts';
import {collect} from '../jobs/collect.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {sampled} from '../support/thorough.ts';
import {contentOf, expectFrozen, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';

let runtime: string;

beforeEach(() => {
	runtime = ownRuntimeFolder();
});

const ONE_DISK = [{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2' as const}];

/** Its lock goes by its name, and is the host's. */
function newVm(disks?: ConstructorParameters<typeof WrittenVm>[0]): WrittenVm {
	return new WrittenVm(disks, temporaryFolder(), `off-${process.pid}`);
}

/** A VM that is off, as what it is started from names it. */
class OffVm {
	readonly written: WrittenVm;
	readonly #images = new Map<string, string>();

	constructor(written: WrittenVm) {
		this.written = written;
		for (const {name} of written.disks) this.#images.set(name, written.image(name));
	}

	image(disk: string): string {
		return this.#images.get(disk)!;
	}

	get images(): NamedImage[] {
		return Array.from(this.#images, ([disk, file]) => ({disk, path: file, format: 'qcow2' as const}));
	}

	get request() {
		const sockets = {name: this.written.name, images: this.images};
		return {sockets, signal: new AbortController().signal, tell: () => undefined};
	}

	/** For the command line. */
	get args(): readonly string[] {
		return [
			this.written.name,
			...this.images.flatMap(({disk, path: file}) => ['--image', `${disk}=${file},format=qcow2`]),
		];
	}

	moveTo(images: ReadonlyMap<string, string>): void {
		for (const [disk, file] of images) this.#images.set(disk, file);
	}

	/** The VM runs for a while. */
	async run(use: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
		const {written} = this;
		await written.start(written.disks.map(disk => ({...disk, image: this.image(disk.name)})));
		for (const {name} of written.disks) await written.writeAround(name);
		await use();
		await written.quit();
	}

	async snapshot(snapshot: string) {
		const request = {...this.request, snapshot, quiesce: 'never' as const, freezeTimeoutMs: 5_000};
		const held = new Map([...this.written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
		const finished = finishedSnapshot(await collect(createSnapshot(request), () => undefined));
		this.moveTo(overlaysOf(finished.manifest.disks));
		return {finished, held};
	}

	expectContents(): void {
		for (const [disk, content] of this.written.contents) {
			expect(contentOf(this.image(disk)).equals(content), disk).toBe(true);
			qemuImg('check', '-q', '-f', 'qcow2', this.image(disk));
		}
	}
}

function overlaysOf(disks: readonly {name: string; overlay: {file: string} | null}[]): Map<string, string> {
	return new Map(disks.flatMap(({name, overlay}) => (overlay ? [[name, overlay.file]] : [])));
}

function movedIn(messages: readonly MergeMessage[]): Map<string, string> {
	const last = messages.at(-1);
	if (last?.kind !== 'finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
	return new Map(last.moved.map(({disk, file}) => [disk, file]));
}

test('snapshots of a VM that is off, and their merges, hold what they should, and increments go on', async () => {
	const off = new OffVm(newVm());
	const {written} = off;
	const repository = temporaryFolder();
	const points = [];
	await off.run(async () => points.push(await written.back(repository)));

	const snapshots = [];
	for (const name of ['one', 'two', 'three']) {
		snapshots.push(await off.snapshot(name));
		off.expectContents();
		points.push(await written.backOff(repository, {images: off.images}));
		await off.run(async () => points.push(await written.back(repository)));
	}
	expect(snapshots[0]!.finished.manifest).toMatchObject({consistency: 'offline', freeze: null, standstill: null});
	for (const {finished, held} of snapshots) expectFrozen(finished, held);
	const listed = await listVmSnapshots(off.request);
	expect(listed.snapshots.map(({name, state}) => [name, state])).toEqual([
		['one', 'whole'],
		['two', 'whole'],
		['three', 'whole'],
	]);

	// From the middle, up, and down to the last one.
	const middle = await lastValueFrom(deleteSnapshot({...off.request, snapshot: 'two'}).pipe(toArray()));
	expect(middle.at(-1)).toEqual({kind: 'deleted', snapshot: 'two', moved: []});
	off.expectContents();
	points.push(await written.backOff(repository, {images: off.images}));
	await lastValueFrom(stream({...off.request, disks: ['vdb'], delete: true}));
	off.expectContents();
	expect(fs.existsSync(written.image('vdb'))).toBe(false);
	const messages = await lastValueFrom(
		commit({...off.request, disks: ['vda'], base: written.image('vda')}).pipe(toArray()),
	);
	const moved = movedIn(messages);
	expect(moved).toEqual(new Map([['vda', written.image('vda')]]));
	off.moveTo(moved);
	off.expectContents();
	await off.run(async () => points.push(await written.back(repository)));
	points.push(await written.backOff(repository, {images: off.images}));

	for (const point of points) expectHeld(point);
	expect(points.slice(1).map(point => storedAs(point, 'vda').kind)).toEqual(points.slice(1).map(() => 'incremental'));
	// A merge takes away what the last point lay on, and nobody who saw it tells.
	expect(points.flatMap(point => storedAs(point, 'vdb').reason ?? [])).toEqual([
		'it is the first point of this disk in the repository',
		expect.stringMatching(/^nothing can be based on \S+: its base image is another one: \S+vdb\.one\.qcow2$/),
		'its chain of images is shorter than it was',
	]);
	expect(fs.readdirSync(written.folder).filter(name => name.endsWith('.qcow2'))).toHaveLength(2);
	expect(fs.readdirSync(runtime)).toEqual([]);
});

test('increments of a VM that is off go on over a snapshot that was taken while it ran', async () => {
	const off = new OffVm(newVm());
	const {written} = off;
	const repository = temporaryFolder();
	const points = [];
	await off.run(async () => {
		points.push(await written.back(repository));
		const {manifest} = finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: 'running'})));
		off.moveTo(overlaysOf(manifest.disks));
		for (const {name} of written.disks) await written.writeAround(name);
	});
	points.push(await written.backOff(repository, {images: off.images}));
	await off.run();
	points.push(await written.backOff(repository, {images: off.images}));
	for (const disk of ['vda', 'vdb']) {
		expect(points.slice(1).map(point => storedAs(point, disk).kind)).toEqual(['incremental', 'incremental']);
	}
	for (const point of points) expectHeld(point);
});

test('the layers of a VM that runs are refused, and so is its memory', async () => {
	const off = new OffVm(newVm(ONE_DISK));
	const {written} = off;
	await off.run();
	await off.snapshot('one');
	await written.start(ONE_DISK.map(disk => ({...disk, image: off.image('vda')})));
	const refused = `is in use: VM ${written.name}, process ${written.vm.pid} (qemu-system-x86) has it open for writing`;
	await expect(lastValueFrom(commit(off.request))).rejects.toThrow(refused);
	await expect(off.snapshot('two')).rejects.toThrow(refused);
	await written.quit();
	const request = {...off.request, quiesce: 'never' as const, freezeTimeoutMs: 1, memory: 'live' as const};
	expect(() => createSnapshot(request)).toThrow('a VM that is off has no memory to save');
});

test('a file that has snapshots in itself is not removed', async () => {
	const off = new OffVm(newVm(ONE_DISK));
	await off.run();
	await off.snapshot('one');
	await off.run();
	qemuImg('snapshot', '-c', 'kept', off.image('vda'));
	await expect(lastValueFrom(commit(off.request))).rejects.toThrow(
		`vda: ${off.image('vda')} has snapshots in itself, which would go with it: kept`,
	);
	await lastValueFrom(commit({...off.request, keep: true}));
	off.expectContents();
	expect(contentOf(off.written.image('vda')).equals(off.written.contents.get('vda')!)).toBe(true);
});

const SNAPSHOT_STEPS = [
	'host start qemu-img create #1',
	'images <- blockdev-add #3',
	'images <- transaction #1',
	'images -> block-dirty-bitmap-remove #1',
	'host rename .SHA256SUMS.new #1',
	'images <- blockdev-reopen #1',
];

test.each(sampled(SNAPSHOT_STEPS, 2))(
	'a snapshot that is killed at %s leaves images that can be started',
	{timeout: 60_000},
	async step => {
		const {off, repository, full} = await readyForSnapshot();
		await killAt(step, ['snapshot', 'create', ...off.args, 'one'].flatMap(swapped));
		const listed = await listVmSnapshots(await openable(off));
		expect(
			listed.snapshots.every(({state}) => state === 'whole'),
			step,
		).toBe(true);
		off.expectContents();
		if (listed.snapshots.length === 0) await off.snapshot('one');
		const next = await off.written.backOff(repository, {images: off.images});
		for (const point of [full, next]) expectHeld(point);
		expect(fs.readdirSync(runtime)).toEqual([]);
	},
);

/** `snapshot create VM NAME`: the name is the second word. */
function swapped(word: string, at: number, words: readonly string[]): string[] {
	if (at === 3) return ['one', word];
	return at === words.length - 1 ? [] : [word];
}

async function readyForSnapshot() {
	const off = new OffVm(newVm(ONE_DISK));
	const repository = temporaryFolder();
	await off.run();
	const full = await off.written.backOff(repository, {images: off.images});
	await off.run();
	return {off, repository, full};
}

/** By the image, if it can be opened, else by what lies on it: an operator does what the refusal says. */
async function openable(off: OffVm): Promise<OffVm['request']> {
	const overlay = path.join(off.written.folder, 'vda.one.qcow2');
	try {
		await listVmSnapshots(off.request);
	} catch (error) {
		expect(String(error)).toContain(`${overlay} lies on it`);
		off.moveTo(new Map([['vda', overlay]]));
	}
	return off.request;
}

const COMMIT_STEPS = [
	'images -> block-commit #1',
	'images <- job-complete #1',
	'images <- job-dismiss #1',
	'host rename .chain.json #2',
	'host rm vda.one.qcow2 #1',
	'host rm vda.two.qcow2 #1',
];

test.each(sampled(COMMIT_STEPS, 2))('a commit that is killed at %s loses nothing', {timeout: 60_000}, async step => {
	const {off, base} = await readyForCommit();
	await killAt(step, ['commit', ...off.args, '--base', base]);
	const isCommitted = !fs.existsSync(path.join(off.written.folder, 'vda.one.qcow2'));
	if (isCommitted) off.moveTo(new Map([['vda', base]]));
	off.expectContents();
	const request = isCommitted ? undefined : {...off.request, base};
	if (request) off.moveTo(movedIn(await lastValueFrom(commit(request).pipe(toArray()))));
	// What would not open is gone by then.
	await listVmSnapshots(off.request);
	off.expectContents();
	expect(fs.readdirSync(off.written.folder).filter(name => name.endsWith('.qcow2'))).toEqual(['vda.qcow2']);
	await off.snapshot('next');
	off.expectContents();
	expect(fs.readdirSync(runtime)).toEqual([]);
});

async function readyForCommit() {
	const off = new OffVm(newVm(ONE_DISK));
	const base = off.image('vda');
	for (const name of ['one', 'two']) {
		await off.run();
		await off.snapshot(name);
	}
	await off.run();
	return {off, base};
}

/** With its guard and its daemon: nothing puts anything right. */
async function killAt(step: string, args: readonly string[]): Promise<void> {
	const tool = startToolAt(step, args);
	expect(await tool.stopped, `${step}\n${tool.stderr()}\n${tool.steps().join('\n')}`).toBe(true);
	const daemons = processesNaming('images.sock').filter(pid =>
		fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(process.env['QUIESCE_RUNTIME_DIR']!),
	);
	for (const pid of daemons) process.kill(pid, 'SIGKILL');
	await tool.killBoth();
}
