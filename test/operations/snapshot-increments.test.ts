import {beforeEach, expect, test} from 'vitest';
import {executeAny, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {contentOf, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {expectHeld, storedAs, type Taken, WrittenVm} from './written-vm.ts';

const MIB = 1024 * 1024;

beforeEach(() => {
	ownRuntimeFolder();
});

async function scene() {
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'}]).start();
	const repository = temporaryFolder();
	const full = await written.back(repository);
	await written.writeAround('vda');
	const snapshot = async (name: string) => {
		const {manifest} = finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: name})));
		return manifest.disks[0]!.overlay!;
	};
	return {written, repository, full, snapshot};
}

/** Runs the VM on another image of the same chain. */
async function restartOn(written: WrittenVm, image: string): Promise<void> {
	await written.quit();
	await written.start(written.disks.map(disk => ({...disk, image})));
}

function expectIncrement(taken: Taken, parent: Taken): void {
	expect(storedAs(taken, 'vda')).toMatchObject({
		kind: 'incremental',
		parent: parent.finished.manifest.id,
		reason: null,
	});
	expectHeld(taken);
}

test('backups go on as increments over snapshots, and over a start from the overlays', async () => {
	const {written, repository, full, snapshot} = await scene();
	await snapshot('one');
	await written.writeAround('vda');
	const second = await written.back(repository, {method: 'push'});
	expectIncrement(second, full);
	await written.writeAround('vda');
	await snapshot('two');
	await written.writeAround('vda');
	const {file} = await snapshot('three');
	await written.writeAround('vda');
	const third = await written.back(repository);
	expectIncrement(third, second);
	await written.writeAround('vda');
	const top = await snapshot('four');
	await written.writeAround('vda');
	expect(top.file).not.toBe(file);
	await restartOn(written, top.file);
	await written.writeAround('vda');
	const fourth = await written.back(repository);
	expectIncrement(fourth, third);
	expectHeld(full);
	await written.writeAround('vda');
	expectIncrement(await written.back(repository, {kind: 'differential'}).then(differential), full);
});

/** As {@link expectIncrement} wants it. */
function differential(taken: Taken): Taken {
	expect(storedAs(taken, 'vda').kind).toBe('differential');
	const {manifest} = taken.finished;
	const disks = manifest.disks.map(disk => ({...disk, kind: 'incremental' as const}));
	return {...taken, finished: {...taken.finished, manifest: {...manifest, disks}}};
}

test('what is written to the base by a start from the wrong image is in the next increment', async () => {
	const {written, repository, full, snapshot} = await scene();
	const overlay = await snapshot('one');
	await written.writeAround('vda');
	await restartOn(written, written.vm.file('vda'));
	await written.write('vda', 0, 8 * MIB);
	await written.quit();
	// Where the overlay has nothing, it comes to be seen.
	written.contents.set('vda', contentOf(overlay.file));
	await written.start(written.disks.map(disk => ({...disk, image: overlay.file})));
	await written.writeAround('vda');
	expectIncrement(await written.back(repository), full);
});

test('a snapshot of another program costs a full, and its jobs on our overlays cost nothing', async () => {
	const {written, repository, full, snapshot} = await scene();
	await snapshot('one');
	await written.writeAround('vda');
	const {node} = await snapshot('two');
	await written.writeAround('vda');
	const nodes = await written.vm.qmp.execute('query-named-block-nodes', {flat: true});
	expect(nodes.filter(one => (one['dirty-bitmaps'] ?? []).length > 0)).toHaveLength(3);
	const base = 'vda-node';
	await job(written, 'block-stream', {'device': node, 'base-node': base});
	await written.writeAround('vda');
	const second = await written.back(repository);
	expectIncrement(second, full);
	await job(written, 'block-stream', {device: node});
	await written.writeAround('vda');
	const streamed = await written.back(repository);
	expectIncrement(streamed, second);
	await written.execute('blockdev-snapshot-sync', {
		'node-name': node,
		'snapshot-file': `${written.folder}/theirs.qcow2`,
		'snapshot-node-name': 'theirs',
		'format': 'qcow2',
	});
	await written.writeAround('vda');
	const third = await written.back(repository);
	expect(storedAs(third, 'vda')).toMatchObject({
		kind: 'full',
		reason: expect.stringMatching(/^another program took a snapshot/) as string,
	});
	expectHeld(third);
});

/** Of another program, to its end. */
async function job(written: WrittenVm, command: string, args: object): Promise<void> {
	const id = 'theirs';
	await executeAny(written.vm.qmp, command, {...args, 'job-id': id});
	await expect.poll(async () => (await written.vm.qmp.execute('query-jobs')).length, {timeout: 10_000}).toBe(0);
}
