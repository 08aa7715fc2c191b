import {type ChildProcess, spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, tap, toArray} from 'rxjs';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import {revertInside} from '../../src/operations/revert-inside.ts';
import {revert} from '../../src/operations/revert.ts';
import type {RevertMessage, RevertRequest} from '../../src/operations/revert-messages.ts';
import {type BareVm, executeAny, openQmp, ownRuntimeFolder, processesNaming} from '../jobs/bare-vm.ts';
import {countIn, countReaches, disagreement, startCountingVm} from '../migration/counting-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {type FinishedSnapshot, finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

/** With a monitor at a place of its own, which a VM that is started from its command line has too. */
async function startVm(folder: string): Promise<BareVm> {
	return startCountingVm({
		folder,
		args: ['-m', '16', '-qmp', `unix:${path.join(folder, 'own.sock')},server=on,wait=off`],
	});
}

async function take(vm: BareVm): Promise<FinishedSnapshot> {
	await countReaches(vm, 20);
	return finishedSnapshot(await snapshotOf(snapshotRequest(vm, {snapshot: 'running', memory: 'live'})));
}

function requestFor(folder: string, rest: Partial<RevertRequest> = {}): RevertRequest {
	return {
		snapshot: {folder: path.join(folder, 'web.snapshots'), name: 'running'},
		start: true,
		monitor: {unix: path.join(folder, 'own.sock')},
		waitMs: 30_000,
		signal: new AbortController().signal,
		tell: () => undefined,
		...rest,
	};
}

/** Takes the monitors off the recorded command line that are the test's own, relative to the folder of the first QEMU. */
function leaveTestMonitorsOut(noted: string): void {
	const sums = path.join(noted, 'SHA256SUMS');
	const file = path.join(noted, 'machine.json');
	const sha256 = (): string => createHash('sha256').update(fs.readFileSync(file)).digest('hex');
	const before = sha256();
	const machine = JSON.parse(fs.readFileSync(file, 'utf8')) as {commandLine: string[]};
	const isTests = (at: number): boolean =>
		machine.commandLine[at] === '-qmp' && !machine.commandLine[at + 1]!.startsWith('unix:/');
	machine.commandLine = machine.commandLine.filter((_, at) => !isTests(at) && !isTests(at - 1));
	fs.writeFileSync(file, JSON.stringify(machine));
	fs.writeFileSync(sums, fs.readFileSync(sums, 'utf8').replace(before, sha256()));
}

async function runRevert(
	request: RevertRequest,
	onMessage: (message: RevertMessage) => void = () => undefined,
): Promise<RevertMessage[]> {
	return lastValueFrom(revert(request).pipe(tap(onMessage), toArray()));
}

test('a VM goes on from a memory snapshot where it was, again and again, and its bases stay as they are', async () => {
	const folder = temporaryFolder();
	const vm = await startVm(folder);
	const {manifest, folder: noted} = await take(vm);
	leaveTestMonitorsOut(noted);
	const bases = manifest.disks.map(({base}) => fs.readFileSync(base.file));
	await expect(runRevert(requestFor(folder))).rejects.toThrow(/has .* open, so running cannot be brought back now/);
	await vm.kill();
	for (let round = 0; round < 2; round++) {
		const messages = await runRevert(requestFor(folder));
		const last = messages.at(-1) as Extract<RevertMessage, {kind: 'finished'}>;
		expect(last).toMatchObject({kind: 'finished', status: 'running'});
		const qmp = await openQmp(path.join(folder, 'own.sock'));
		const [pid] = processesNaming(last.disks[0]!.overlay);
		onTestFinished(() => {
			if (processesNaming(last.disks[0]!.overlay).includes(pid!)) process.kill(pid!, 'SIGKILL');
		});
		const count = await countIn({qmp});
		await countReaches({qmp}, count + 10);
		await qmp.execute('stop');
		expect(disagreement(await countIn({qmp}), [last.disks[0]!.overlay, last.disks[1]!.overlay])).toEqual([]);
		await qmp.execute('quit').catch(() => undefined);
		while (processesNaming(last.disks[0]!.overlay).length > 0) await new Promise(resolve => setTimeout(resolve, 20));
	}
	expect(manifest.disks.map(({base}, at) => fs.readFileSync(base.file).equals(bases[at]!))).toEqual([true, true]);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});

test('a memory or a base that is not as it was is refused, and nothing is left', async () => {
	const folder = temporaryFolder();
	const vm = await startVm(folder);
	const {manifest, folder: noted} = await take(vm);
	await vm.kill();
	const before = fs.readdirSync(folder).sort();
	const memory = path.join(noted, 'memory.zst');
	const bytes = fs.readFileSync(memory);
	fs.writeFileSync(
		memory,
		Buffer.concat([bytes.subarray(0, 100), Buffer.from([bytes[100]! ^ 1]), bytes.subarray(101)]),
	);
	await expect(runRevert(requestFor(folder))).rejects.toThrow(/memory.zst is not what it was/);
	fs.writeFileSync(memory, bytes);
	const base = manifest.disks[0]!.base.file;
	const later = new Date(Date.now() + 60_000);
	fs.utimesSync(base, later, later);
	await expect(runRevert(requestFor(folder))).rejects.toThrow(/has been written to since/);
	expect(fs.readdirSync(folder).sort()).toEqual(before);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});

test('a running VM goes back to a snapshot inside its images, and its bitmaps only if they may be dropped', async () => {
	const vm = await startCountingVm({args: ['-m', '16']});
	await countReaches(vm, 20);
	const saved = new Promise<void>(resolve => {
		vm.qmp.on('JOB_STATUS_CHANGE').subscribe({
			next: ({data}) => {
				if (data.id === 'save' && data.status === 'concluded') resolve();
			},
			error: () => undefined,
		});
	});
	const devices = ['vda-node', 'vdb-node'];
	await executeAny(vm.qmp, 'snapshot-save', {'job-id': 'save', 'tag': 'inside', 'vmstate': 'vda-node', devices});
	await saved;
	await executeAny(vm.qmp, 'job-dismiss', {id: 'save'});
	const count = await countIn(vm);
	await countReaches(vm, count + 400);
	await executeAny(vm.qmp, 'block-dirty-bitmap-add', {node: 'vda-node', name: 'theirs'});
	const request = {...snapshotRequest(vm), snapshot: 'inside', dropBitmaps: true, dropNamed: [] as string[]};
	await expect(lastValueFrom(revertInside(request))).rejects.toThrow(/while its disks have bitmaps: theirs/);
	const done = await lastValueFrom(revertInside({...request, dropNamed: ['theirs']}));
	expect(done).toMatchObject({kind: 'finished', status: 'running', droppedBitmaps: ['theirs'], disks: ['vda', 'vdb']});
	expect(await countIn(vm)).toBeLessThan(count + 400);
	await vm.qmp.execute('stop');
	expect(disagreement(await countIn(vm), [vm.file('vda'), vm.file('vdb')])).toEqual([]);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});

test('an operator starts the command that is printed, and the VM is given its memory', async () => {
	const folder = temporaryFolder();
	const vm = await startVm(folder);
	const {folder: noted} = await take(vm);
	leaveTestMonitorsOut(noted);
	await vm.kill();
	let operators: ChildProcess | undefined;
	const messages = await runRevert(requestFor(folder, {start: false}), message => {
		if (message.kind !== 'prepared') return;
		expect(message).toMatchObject({starts: false, memory: true});
		expect(message.argv.slice(-2)).toEqual(['-incoming', 'defer']);
		const [program, ...args] = message.argv;
		operators = spawn(program!, args, {stdio: 'ignore'});
		onTestFinished(() => void operators?.kill('SIGKILL'));
	});
	const last = messages.at(-1) as Extract<RevertMessage, {kind: 'finished'}>;
	expect(last).toMatchObject({kind: 'finished', status: 'running'});
	const qmp = await openQmp(path.join(folder, 'own.sock'));
	await countReaches({qmp}, (await countIn({qmp})) + 10);
	await qmp.execute('stop');
	expect(disagreement(await countIn({qmp}), [last.disks[0]!.overlay, last.disks[1]!.overlay])).toEqual([]);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});

test('a VM that nobody starts is given up, and its overlays are gone', async () => {
	const folder = temporaryFolder();
	const vm = await startVm(folder);
	await take(vm);
	await vm.kill();
	fs.rmSync(path.join(folder, 'own.sock'), {force: true});
	const before = fs.readdirSync(folder).sort();
	await expect(runRevert(requestFor(folder, {start: false, waitMs: 500}))).rejects.toThrow(/own.sock/);
	expect(fs.readdirSync(folder).sort()).toEqual(before);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
});
