import fs from 'node:fs';
import path from 'node:path';
import {randomBytes} from 'node:crypto';
import {concatMap, firstValueFrom, map} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {readSettings} from '../../src/migration/settings.ts';
import {recover} from '../../src/operations/recover.ts';
import {type BareVm, eventually, inside, isRunning, MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {countIn, countReaches, startCountingVm} from '../migration/counting-vm.ts';
import {startWritingVm} from '../migration/writing-vm.ts';
import {temporaryMount, temporaryFolder} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';

let runtime: string;

beforeEach(() => {
	runtime = ownRuntimeFolder();
});

test('a guest that writes faster than can be saved is paused once it has gone on for so long', async () => {
	const vm = await startWritingVm();
	// Where QEMU itself pauses it for the rest, hardly anything is left to be sent.
	const left = firstValueFrom(
		vm.qmp.on('STOP').pipe(
			concatMap(() => vm.qmp.execute('query-migrate')),
			map(({status, ram}) => (status === 'active' ? (ram?.remaining ?? 0) : 0)),
		),
	);
	const request = snapshotRequest(vm, {snapshot: 'one', memory: 'live', liveMs: 500});
	const {manifest} = finishedSnapshot(await snapshotOf(request));
	expect(await left).toBeGreaterThan(MIB);
	expect(manifest).toMatchObject({memory: {mode: 'live', running: true}, standstill: {of: 'vm'}});
	expect((await vm.qmp.execute('query-status')).status).toBe('running');
}, 120_000);

/** All that a snapshot could change, but for what the guest does. */
async function stateOf(vm: BareVm): Promise<unknown> {
	return {
		inside: await inside(vm.qmp),
		settings: await readSettings(vm.qmp),
		status: (await vm.qmp.execute('query-status')).status,
		files: fs.readdirSync(path.dirname(vm.file('vda'))).sort(),
		runs: fs.readdirSync(runtime),
	};
}

async function countsOn(vm: BareVm): Promise<void> {
	await countReaches(vm, (await countIn(vm)) + 5);
}

test('a memory that fills the disk leaves nothing there', async () => {
	const random = path.join(temporaryFolder(), 'random');
	// So much more than there is room for that it shows long before the rest is small enough for the cut.
	fs.writeFileSync(random, randomBytes(128 * MIB));
	const vm = await startCountingVm({
		args: ['-m', '192', '-device', `loader,file=${random},addr=0x1000000,force-raw=on`],
	});
	await countReaches(vm, 20);
	const folder = temporaryMount(28);
	const before = await stateOf(vm);
	await expect(snapshotOf(snapshotRequest(vm, {snapshot: 'one', memory: 'live', folder}))).rejects.toThrow(/space/);
	expect(fs.readdirSync(folder)).toEqual([]);
	expect(await stateOf(vm)).toEqual(before);
	await countsOn(vm);
});

test('a device that cannot be saved is named before anything is made', async () => {
	const odd = ['-object', 'memory-backend-ram,id=m1,size=1M,share=on', '-device', 'ivshmem-plain,memdev=m1'];
	const vm = await startCountingVm({args: ['-m', '16', ...odd]});
	const before = await stateOf(vm);
	await expect(snapshotOf(snapshotRequest(vm, {snapshot: 'one', memory: 'live'}))).rejects.toThrow(
		/the memory of this VM cannot be saved: .*ivshmem/,
	);
	expect(await stateOf(vm)).toEqual(before);
	await countsOn(vm);
});

test.each([
	{step: 'qmp <- migrate #1', who: 'tool', leaves: 'nothing'},
	{step: 'qmp <- MIGRATION pre-switchover #1', who: 'tool and guard', leaves: 'nothing'},
	{step: 'qmp <- transaction #1', who: 'tool', leaves: 'disks'},
	{step: 'qmp <- MIGRATION completed #1', who: 'tool and guard', leaves: 'disks'},
] as const)('killed ($who, $step) the guest goes on, and $leaves is there', async ({step, who, leaves}) => {
	const vm = await startCountingVm({args: ['-m', '16']});
	await countReaches(vm, 20);
	const before = await stateOf(vm);
	const folder = temporaryFolder();
	const place = ['--quiesce', 'never', '--folder', folder];
	const tool = startToolAt(step, ['snapshot', 'create', '--qmp', vm.qmpPath, 'one', '--memory', ...place]);
	expect(await tool.stopped).toBe(true);
	const recovery = () => textsOf(recover(snapshotRequest(vm)));
	if (who === 'tool') {
		const guard = await tool.killAlone();
		await eventually(() => !isRunning(guard), 60_000);
	} else {
		await tool.killBoth();
		await recovery();
	}
	await countsOn(vm);
	const noted = path.join(folder, 'web.snapshots');
	if (leaves === 'nothing') {
		expect(fs.readdirSync(folder)).toEqual([]);
		expect(await stateOf(vm)).toEqual(before);
	} else {
		expect(fs.readdirSync(noted)).toEqual(['one']);
		expect(fs.readdirSync(path.join(noted, 'one')).sort()).toEqual(['SHA256SUMS', 'machine.json', 'snapshot.json']);
		const {settings, status, runs} = (await stateOf(vm)) as Record<string, unknown>;
		expect({settings, status, runs}).toMatchObject(
			Object.fromEntries(
				Object.entries(before as object).filter(([name]) => ['settings', 'status', 'runs'].includes(name)),
			),
		);
	}
	expect(await recovery()).toEqual([]);
});

test('a snapshot noted in a folder of its own is finished, though nothing of its run is left to say where', async () => {
	const vm = await startCountingVm({args: ['-m', '16']});
	const folder = temporaryFolder();
	const place = ['--quiesce', 'never', '--folder', folder];
	for (const step of ['host rm run.json #1', 'qmp <- transaction #1']) {
		const name = `one-${step.length}`;
		const tool = startToolAt(step, ['snapshot', 'create', '--qmp', vm.qmpPath, name, ...place]);
		expect(await tool.stopped).toBe(true);
		await tool.killBoth();
		// As a restart of the host does it.
		for (const run of fs.readdirSync(runtime)) fs.rmSync(path.join(runtime, run), {recursive: true});
		await textsOf(recover(snapshotRequest(vm)));
		expect(fs.existsSync(path.join(folder, 'web.snapshots', name))).toBe(false);
		const words = await textsOf(recover({...snapshotRequest(vm), snapshots: folder}));
		expect(words).toContainEqual(expect.stringContaining(`finished the snapshot ${name}`));
		expect(fs.existsSync(path.join(folder, 'web.snapshots', name))).toBe(true);
	}
	// Where the run's folder is there it is found by that.
	const tool = startToolAt('host rm run.json #1', ['snapshot', 'create', '--qmp', vm.qmpPath, 'two', ...place]);
	expect(await tool.stopped).toBe(true);
	await tool.killBoth();
	const words = await textsOf(recover(snapshotRequest(vm)));
	expect(words).toContainEqual(expect.stringContaining('finished the snapshot two'));
	expect(fs.readdirSync(runtime)).toEqual([]);
});
