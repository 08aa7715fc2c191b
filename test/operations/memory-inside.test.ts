import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {recover} from '../../src/operations/recover.ts';
import {revertInside} from '../../src/operations/revert-inside.ts';
import {listVmSnapshots} from '../../src/operations/snapshot-list.ts';
import {type BareVm, eventually, executeAny, inside, isRunning, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {COUNTING_DISKS, countIn, countReaches, disagreement, startCountingVm} from '../migration/counting-vm.ts';
import {qemuImg} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {type FinishedSnapshot, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';

const LASTING = 'qsc-0123456789ab-2026-11-25T08-00-00Z-abcdef';

beforeEach(() => {
	ownRuntimeFolder();
});

async function take(vm: BareVm, snapshot: string): Promise<FinishedSnapshot> {
	return finishedSnapshot(await snapshotOf(snapshotRequest(vm, {snapshot, kind: 'internal', memory: 'stop'})));
}

async function statusOf(vm: BareVm): Promise<string> {
	return (await vm.qmp.execute('query-status')).status;
}

async function bitmapsOf(vm: BareVm): Promise<unknown[]> {
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	return nodes.flatMap(node => node['dirty-bitmaps'] ?? []);
}

function revertTo(vm: BareVm, snapshot: string) {
	return lastValueFrom(revertInside({...snapshotRequest(vm), snapshot, dropBitmaps: true, dropNamed: []}));
}

test('a memory is saved inside the images, and the guest counts on from there when it is brought back', async () => {
	const vm = await startCountingVm({args: ['-m', '64']});
	await executeAny(vm.qmp, 'block-dirty-bitmap-add', {node: 'vda-node', name: LASTING, persistent: true});
	await countReaches(vm, 20);
	const before = await countIn(vm);
	const {manifest, folder} = await take(vm, 'running');
	const after = await countIn(vm);
	expect(manifest).toMatchObject({kind: 'internal', standstill: {of: 'vm'}, memory: null, vmState: {disk: 'vda'}});
	expect(manifest.standstill!.seconds).toBeGreaterThan(0);
	expect(manifest.vmState!.bytes).toBeGreaterThan(10_000);
	expect(fs.readdirSync(folder).sort()).toEqual(['SHA256SUMS', 'machine.json', 'snapshot.json']);
	expect(await statusOf(vm)).toBe('running');
	expect(await bitmapsOf(vm)).toMatchObject([{name: LASTING, recording: true}]);
	expect((await inside(vm.qmp)).jobs).toEqual([]);
	const {snapshots} = await listVmSnapshots(snapshotRequest(vm));
	expect(snapshots).toMatchObject([{name: 'running', state: 'whole', vmState: manifest.vmState}]);
	await countReaches(vm, after + 100);
	// Paused it stays so, which shows where exactly it is.
	await vm.qmp.execute('stop');
	expect(await revertTo(vm, 'running')).toMatchObject({kind: 'finished', status: 'paused', droppedBitmaps: [LASTING]});
	const back = await countIn(vm);
	expect(back).toBeGreaterThanOrEqual(before);
	expect(back).toBeLessThanOrEqual(after);
	expect(disagreement(back, [vm.file('vda'), vm.file('vdb')])).toEqual([]);
	await vm.qmp.execute('cont');
	await countReaches(vm, back + 10);
	expect(await revertTo(vm, 'running')).toMatchObject({kind: 'finished', status: 'running'});
	await countReaches(vm, back + 10);
	await vm.qmp.execute('stop');
	expect(disagreement(await countIn(vm), [vm.file('vda'), vm.file('vdb')])).toEqual([]);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});

test('a paused VM stays paused, and a name that is taken changes nothing', async () => {
	const vm = await startCountingVm({args: ['-m', '16']});
	await countReaches(vm, 20);
	await vm.qmp.execute('stop');
	expect((await take(vm, 'one')).manifest.standstill).toEqual({of: 'vm', seconds: 0});
	expect(await statusOf(vm)).toBe('paused');
	await expect(take(vm, 'one')).rejects.toThrow(/cannot be called one: there is one of that name/);
	expect(await statusOf(vm)).toBe('paused');
});

test('what cannot be saved inside the images is refused beforehand', async () => {
	const odd = ['-object', 'memory-backend-ram,id=m1,size=1M,share=on', '-device', 'ivshmem-plain,memdev=m1'];
	const vm = await startCountingVm({args: ['-m', '16', ...odd]});
	await expect(take(vm, 'one')).rejects.toThrow(/cannot be saved: .*ivshmem/);
	const raw = await startCountingVm({args: ['-m', '16']}, [COUNTING_DISKS[0]!, {...COUNTING_DISKS[1]!, format: 'raw'}]);
	await expect(take(raw, 'one')).rejects.toThrow(/no internal snapshot can be taken of vdb: it is a raw image/);
	await expect(
		async () =>
			await snapshotOf(
				snapshotRequest(raw, {kind: 'internal', memory: 'background', exclude: ['vdb'], snapshot: 'one'}),
			),
	).rejects.toThrow(/not in the background/);
	for (const {name} of COUNTING_DISKS) expect(qemuImg('snapshot', '-U', '-l', vm.file(name))).not.toContain('one');
	expect(fs.existsSync(path.join(path.dirname(vm.file('vda')), 'web.snapshots'))).toBe(false);
	expect(await statusOf(vm)).toBe('running');
});

test.each(['tool', 'tool and guard'] as const)('QEMU saves on when the %s is killed, and it is finished', async who => {
	const vm = await startCountingVm({args: ['-m', '64']});
	await countReaches(vm, 20);
	const args = ['snapshot', 'create', '--qmp', vm.qmpPath, 'one', '--internal', '--memory', '--quiesce', 'never'];
	const tool = startToolAt('qmp -> snapshot-save #1', args);
	expect(await tool.stopped).toBe(true);
	const sockets = {qmp: {unix: vm.qmpPath}};
	const recovery = () => textsOf(recover({sockets, signal: new AbortController().signal, tell: () => undefined}));
	if (who === 'tool') {
		const guard = await tool.killAlone();
		await eventually(() => !isRunning(guard), 60_000);
		expect(tool.stderr()).toMatch(/(?:finished|removed the unfinished) (?:the )?snapshot one/);
	} else {
		await tool.killBoth();
		expect((await recovery()).join('\n')).toMatch(/(?:finished|removed the unfinished) (?:the )?snapshot one/);
	}
	expect(await statusOf(vm)).toBe('running');
	expect((await inside(vm.qmp)).jobs).toEqual([]);
	const noted = path.join(path.dirname(vm.file('vda')), 'web.snapshots', 'one', 'snapshot.json');
	const images = COUNTING_DISKS.map(({name}) => qemuImg('snapshot', '-U', '-l', vm.file(name)).includes('one'));
	expect(images).toEqual([fs.existsSync(noted), fs.existsSync(noted)]);
	if (fs.existsSync(noted)) {
		const count = await countIn(vm);
		expect(JSON.parse(fs.readFileSync(noted, 'utf8'))).toMatchObject({vmState: {disk: 'vda'}});
		await countReaches(vm, count + 20);
		await revertTo(vm, 'one');
		await vm.qmp.execute('stop');
		expect(disagreement(await countIn(vm), [vm.file('vda'), vm.file('vdb')])).toEqual([]);
	}
	expect(await recovery()).toEqual([]);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});
