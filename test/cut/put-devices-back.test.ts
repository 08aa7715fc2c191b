import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {runOf} from '../../src/block/names.ts';
import {putDevicesBack} from '../../src/cut/put-devices-back.ts';
import type {QmpConnection} from '../../src/qmp/connection.ts';
import {type BareVm, executeAny, inside, MIB, startVm} from '../jobs/bare-vm.ts';
import {blockState, fleecing, intercepted, removedFiles, RUN, WAYS} from './fleecing.ts';

const isOurs = (node: string): boolean => runOf(node) === RUN;

const reads = (command: string): boolean => /^(query-|qom-get$|x-debug-)/.test(command);

/** The node that a disk's device is on. */
async function rootOf(qmp: QmpConnection, disk: string): Promise<string | undefined> {
	const path = `/machine/peripheral/${disk}/virtio-backend`;
	return (await qmp.execute('query-block')).find(({qdev}) => qdev === path)?.inserted?.['node-name'];
}

/** What another program does: from then on what the guest writes goes into `theirs`. */
async function takeSnapshot(vm: BareVm, disk: string): Promise<void> {
	const overlay = path.join(vm.dir, 'theirs.qcow2');
	execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', overlay, String(fs.statSync(vm.file(disk)).size)]);
	const file = {driver: 'file', filename: overlay};
	await vm.qmp.execute('blockdev-add', {'driver': 'qcow2', 'node-name': 'theirs', file, 'backing': null});
	await executeAny(vm.qmp, 'blockdev-snapshot', {node: `${disk}-node`, overlay: 'theirs'});
}

test.each(WAYS)('wherever a run ends, unwinding puts all back as it was (by %s)', {timeout: 120_000}, async by => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: MIB, fill: 0xaa})));
	const {prepare, copyAll, unwind, schema} = await fleecing(vm.qmp, {by});
	const before = await blockState(vm.qmp);
	const ends: string[] = [];
	for (let atMost = 0; ; atMost++) {
		let done = 0;
		let last = '';
		const mortal = intercepted(vm.qmp, (command, args) => {
			if (reads(command)) return;
			if (done === atMost) throw new Error('the end');
			done++;
			last = `${command} ${JSON.stringify(args)}`;
		});
		const whole = async (): Promise<boolean> => {
			try {
				await copyAll(await prepare(mortal));
				return true;
			} catch (error) {
				expect(error).toMatchObject({message: 'the end'});
				return false;
			}
		};
		const isWhole = await whole();
		ends.push(last);
		const removed = await unwind();
		expect(removed.length > 0, last).toBe(!isWhole && atMost > 0);
		expect(await blockState(vm.qmp), last).toEqual(before);
		expect(removedFiles(vm.pid), last).toEqual([]);
		// QEMU aborts where a device is put on the node that it is on.
		expect(await unwind()).toEqual([]);
		await putDevicesBack(vm.qmp, schema, isOurs);
		for (const disk of ['vda', 'vdb']) await vm.write(disk, atMost + 1, 0, MIB);
		for (const disk of ['vda', 'vdb'])
			expect(fs.readFileSync(vm.file(disk)).equals(Buffer.alloc(MIB, atMost + 1))).toBe(true);
		if (isWhole) break;
	}
	// From the first node to the last one's removal.
	const wanted = {
		gates:
			/scratch.*filter.*gate.*qom-set.*blockdev-reopen.*access.*transaction.*access.*blockdev-reopen.*qom-set.*gate.*filter.*scratch/s,
		pause: /scratch.*filter.*qom-set.*access.*transaction.*access.*qom-set.*filter.*scratch/s,
	};
	expect(ends.join('\n')).toMatch(wanted[by]);
});

test.each(WAYS)('a copy that goes on is ended, and the devices are put back (by %s)', async by => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: 4 * MIB, fill: 0xaa})));
	const {prepare, unwind} = await fleecing(vm.qmp, {by, speedBytesPerSecond: 1});
	const before = await blockState(vm.qmp);
	const cut = await prepare();
	await cut.take();
	await cut.copy();
	await vm.write('vda', 1, 0, MIB);
	expect(await vm.qmp.execute('query-jobs')).toMatchObject([{status: 'running'}, {status: 'running'}]);
	const removed = await unwind();
	expect(removed).toEqual(expect.arrayContaining(['job qsc-abc123-vda', 'job qsc-abc123-vdb']));
	expect(await blockState(vm.qmp)).toEqual(before);
	expect(await unwind()).toEqual([]);
});

test.each(WAYS)('a device goes back to the snapshot that another program took meanwhile (by %s)', async by => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: MIB, fill: 0xaa})));
	const {prepare, copyAll, copies} = await fleecing(vm.qmp, {by});
	const {nodes} = await inside(vm.qmp);
	await copyAll(await prepare(), {
		onceCut: async () => {
			await vm.write('vda', 0xbb, 0, 65_536);
			await takeSnapshot(vm, 'vda');
			await vm.write('vda', 0xcc, 0, MIB);
		},
	});
	for (const copy of copies) expect(fs.readFileSync(copy).equals(Buffer.alloc(MIB, 0xaa))).toBe(true);
	expect(await rootOf(vm.qmp, 'vda')).toBe('theirs');
	expect(await rootOf(vm.qmp, 'vdb')).toBe('vdb-node');
	expect(await inside(vm.qmp)).toEqual({jobs: [], nodes: ['theirs', ...nodes]});
	// Nothing of it went past the snapshot.
	expect(fs.readFileSync(vm.file('vda')).equals(Buffer.alloc(MIB, 0xaa).fill(0xbb, 0, 65_536))).toBe(true);
});

test('so it does where the snapshot was taken before the cut', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: 0xaa}]);
	const {prepare, unwind} = await fleecing(vm.qmp);
	await prepare();
	await takeSnapshot(vm, 'vda');
	await unwind();
	expect(await rootOf(vm.qmp, 'vda')).toBe('theirs');
	await vm.write('vda', 0xcc, 0, MIB);
	expect(fs.readFileSync(vm.file('vda')).equals(Buffer.alloc(MIB, 0xaa))).toBe(true);
});

/** Before what follows the first `after` changes, another program does `what`. */
function raced(qmp: QmpConnection, after: number, what: () => Promise<void>): QmpConnection {
	let changes = 0;
	let sent = 0;
	let done: Promise<void> | undefined;
	return intercepted(qmp, async command => {
		// The first command only looks.
		if (sent++ > 0 && changes === after && (after > 0 || !reads(command))) done ??= what();
		if (!reads(command)) changes++;
		await done;
	});
}

const MOMENTS = [
	{by: 'gates', after: 0, before: 'the gate is moved'},
	{by: 'gates', after: 1, before: 'the device is moved'},
	{by: 'pause', after: 0, before: 'the device is moved'},
] as const;

test.each(MOMENTS)(
	'a snapshot taken just before $before lets the guest write where it should, and the next try ends it (by $by)',
	async ({by, after}) => {
		const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: 0xaa}]);
		const {prepare, unwind, schema} = await fleecing(vm.qmp, {by});
		await (await prepare()).take();
		if (by === 'pause') await vm.qmp.execute('blockdev-del', {'node-name': 'qsc-abc123-vda-access'});
		const tried = putDevicesBack(
			raced(vm.qmp, after, () => takeSnapshot(vm, 'vda')),
			schema,
			isOurs,
		);
		await expect(tried).rejects.toThrow(/^cannot take our nodes from above vda: QEMU refused /);
		await vm.write('vda', 0xbb, 0, 4096);
		await unwind();
		expect(await rootOf(vm.qmp, 'vda')).toBe('theirs');
		await vm.write('vda', 0xcc, 0, MIB);
		expect(fs.readFileSync(vm.file('vda')).equals(Buffer.alloc(MIB, 0xaa))).toBe(true);
	},
);

test.each([
	{by: 'gates', after: 2},
	{by: 'pause', after: 1},
] as const)('one taken just after the device was moved is no reason to complain (by $by)', async ({by, after}) => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: 0xaa}]);
	const {prepare, unwind, schema} = await fleecing(vm.qmp, {by});
	await (await prepare()).take();
	if (by === 'pause') await vm.qmp.execute('blockdev-del', {'node-name': 'qsc-abc123-vda-access'});
	await putDevicesBack(
		raced(vm.qmp, after, () => takeSnapshot(vm, 'vda')),
		schema,
		isOurs,
	);
	expect(await rootOf(vm.qmp, 'vda')).toBe('theirs');
	await unwind();
	expect(await rootOf(vm.qmp, 'vda')).toBe('theirs');
});

test('a device that we have put on a disk which another program exchanged meanwhile is told', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: 0xaa}]);
	const {prepare, schema} = await fleecing(vm.qmp, {by: 'pause'});
	await (await prepare()).take();
	await vm.qmp.execute('blockdev-del', {'node-name': 'qsc-abc123-vda-access'});
	const mirror = async (): Promise<void> => {
		await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'theirs', 'size': MIB});
		const data = {
			'job-id': 'mirror',
			'device': 'qsc-abc123-vda-filter',
			'replaces': 'vda-node',
			'target': 'theirs',
			'sync': 'full',
		};
		await executeAny(vm.qmp, 'blockdev-mirror', data);
		await expect.poll(async () => (await vm.qmp.execute('query-jobs')).map(({status}) => status)).toEqual(['ready']);
		await executeAny(vm.qmp, 'job-complete', {id: 'mirror'});
		await expect.poll(() => vm.qmp.execute('query-jobs')).toEqual([]);
	};
	await expect(putDevicesBack(raced(vm.qmp, 0, mirror), schema, isOurs)).rejects.toMatchObject({
		message: 'vda is on vda-node, but another program has just put theirs in its place',
		hint: 'If query-block still says so, pause the VM, and put the device on theirs with qom-set.',
	});
});

test.each(['job', 'export'])('what another program has on our node (a %s) is left to it, and named', async what => {
	const vm = await startVm([{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa}]);
	const {prepare, unwind} = await fleecing(vm.qmp);
	const before = await blockState(vm.qmp);
	const cut = await prepare();
	await cut.take();
	await cut.copy();
	const node = 'qsc-abc123-vda-access';
	if (what === 'job') {
		await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'null', 'size': 8 * MIB});
		const backup = {'job-id': 'theirs', 'device': node, 'target': 'null', 'sync': 'full', 'speed': 1};
		await executeAny(vm.qmp, 'blockdev-backup', backup);
	} else {
		await executeAny(vm.qmp, 'nbd-server-start', {addr: {type: 'unix', data: {path: path.join(vm.dir, 'nbd')}}});
		await executeAny(vm.qmp, 'block-export-add', {'type': 'nbd', 'id': 'theirs', 'node-name': node});
	}
	await expect(unwind()).rejects.toMatchObject({
		code: 'FAILED',
		hint: expect.stringMatching(
			/^Another program may have a job or an export on .*; end that, and try again\.$/,
		) as string,
	});
	await vm.write('vda', 0xbb, 0, 8 * MIB);
	expect(fs.readFileSync(vm.file('vda')).equals(Buffer.alloc(8 * MIB, 0xbb))).toBe(true);

	await executeAny(vm.qmp, what === 'job' ? 'job-cancel' : 'block-export-del', {id: 'theirs'});
	await expect
		.poll(async () => [...(await vm.qmp.execute('query-jobs')), ...(await vm.qmp.execute('query-block-exports'))])
		.toEqual([]);
	if (what === 'job') await vm.qmp.execute('blockdev-del', {'node-name': 'null'});
	await unwind();
	expect(await blockState(vm.qmp)).toEqual(before);
});
