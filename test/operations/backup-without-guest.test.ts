import {execFileSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {QuiesceError, UsageError} from '../../src/errors.ts';
import {processServing} from '../../src/host/processes.ts';
import type {BackupMessage} from '../../src/operations/backup-messages.ts';
import {QmpDisconnectedError} from '../../src/qmp/errors.ts';
import {socketIn} from '../../src/sink/nbd-socket.ts';
import {type BareVm, executeAny, inside, MIB, ownRuntimeFolder, startVm} from '../jobs/bare-vm.ts';
import {
	compare,
	expectNothingLeft,
	expectNothingLeftOutside,
	filesIn,
	finishedOf,
	requestFor,
	startBackup,
	take,
} from '../jobs/backups.ts';
import {temporaryFolder, temporaryMount} from '../repository/fixture.ts';

/** Bytes per second: a copy does not end within a test. */
const CRAWL = {speedBytesPerSecond: 64 * 1024};
const BEFORE = 0xaa;
const AFTER = 0xbb;

let runtime: string;

beforeEach(() => {
	runtime = ownRuntimeFolder();
});

function startWeb(): Promise<BareVm> {
	return startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: 2 * MIB, fill: BEFORE})));
}

/** A raw file with what a disk held at first. */
function reference(sizeBytes: number): string {
	const file = path.join(temporaryFolder(), 'reference.raw');
	fs.writeFileSync(file, Buffer.alloc(sizeBytes, BEFORE));
	return file;
}

async function codeOf(failing: Promise<unknown>): Promise<string> {
	const error: unknown = await failing.then(
		() => undefined,
		(error: unknown) => error,
	);
	expect(error).toBeInstanceOf(QuiesceError);
	return (error as QuiesceError).code;
}

test.each([
	{method: 'fleece', sink: 'daemon', compression: 'none', by: 'drive'},
	{method: 'fleece', sink: 'daemon', compression: 'zstd', by: 'blockdev'},
	{method: 'fleece', sink: 'inline', compression: 'zstd', by: 'blockdev'},
	{method: 'push', sink: 'daemon', compression: 'zstd', by: 'blockdev'},
	{method: 'push', sink: 'inline', compression: 'none', by: 'blockdev'},
	{method: 'push', sink: 'inline', compression: 'zstd', by: 'drive'},
] as const)(
	'a point holds what the disks had at the cut, whatever is written meanwhile ($method, $sink, $compression, -$by)',
	async ({method, sink, compression, by}) => {
		const disks = [
			{name: 'vda', sizeBytes: 8 * MIB, fill: BEFORE, by},
			{name: 'vdb', sizeBytes: 8 * MIB, fill: BEFORE, by, iothread: true},
			{name: 'vars', sizeBytes: 540_672, fill: BEFORE, by},
		];
		const vm = await startVm(disks);
		const repository = temporaryFolder();
		const request = requestFor(vm, repository, {method, sink, compression, speedBytesPerSecond: 4 * MIB});
		const messages = await take(request, async ({kind}) => {
			if (kind !== 'cut') return;
			for (let at = 0; at < 8 * MIB; at += MIB) for (const disk of ['vda', 'vdb']) await vm.write(disk, AFTER, at, MIB);
			await vm.write('vars', AFTER, 0, 540_672);
		});
		const finished = finishedOf(messages);
		for (const {name, sizeBytes} of disks) {
			expect(compare(finished, name, reference(sizeBytes))).toContain('identical');
			expect(fs.readFileSync(vm.file(name)).equals(Buffer.alloc(sizeBytes, AFTER))).toBe(true);
		}
		expect(finished.manifest).toMatchObject({
			...{vm: 'web', kind: 'full', method, consistency: 'crash-consistent', sink, compression},
			disks: disks.map(({name, sizeBytes}) => ({name, sizeBytes, format: 'raw'})),
		});
		const kinds = messages.map(({kind}) => kind).filter((kind, index, all) => kind !== all[index - 1]);
		expect(kinds).toEqual(['planned', 'cut', 'progress', 'settling', 'finished']);
		execFileSync('sha256sum', ['--quiet', '-c', 'SHA256SUMS'], {cwd: finished.folder});
		await expectNothingLeft(vm, repository);
	},
);

test('points follow one another', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const first = finishedOf(await take(requestFor(vm, repository)));
	await vm.write('vda', AFTER, 0, 2 * MIB);
	const second = finishedOf(await take(requestFor(vm, repository, {sink: 'inline', compression: 'zstd'})));
	expect(compare(first, 'vda', reference(2 * MIB))).toContain('identical');
	expect(compare(second, 'vda', vm.file('vda'))).toContain('identical');
	expect(compare(second, 'vdb', reference(2 * MIB))).toContain('identical');
	await expectNothingLeft(vm, repository);
});

test.each([
	{kind: 'planned', sink: 'daemon'},
	{kind: 'cut', sink: 'daemon'},
	{kind: 'cut', sink: 'inline'},
	{kind: 'progress', sink: 'daemon'},
	{kind: 'progress', sink: 'inline'},
	{kind: 'settling', sink: 'daemon'},
	{kind: 'settling', sink: 'inline'},
] as const)('a run that is cancelled at "$kind" leaves nothing ($sink)', async ({kind, sink}) => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const cancelling = new AbortController();
	const speed = kind === 'settling' ? {} : CRAWL;
	const failing = take(requestFor(vm, repository, {...speed, sink, signal: cancelling.signal}), message => {
		if (message.kind === kind) cancelling.abort(new Error(`enough at ${kind}`));
	});
	await expect(failing).rejects.toThrow(`enough at ${kind}`);
	expect(filesIn(repository)).toEqual([]);
	await expectNothingLeft(vm, repository);
	await vm.write('vda', AFTER, 0, 2 * MIB);
});

test('a run that is cancelled before it has begun does nothing', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const failing = take(requestFor(vm, repository, {signal: AbortSignal.abort(new Error('never mind'))}));
	await expect(failing).rejects.toThrow('never mind');
	expect(fs.readdirSync(repository)).toEqual([]);
	await expectNothingLeft(vm, repository);
});

test.each(['daemon', 'inline'] as const)(
	'a copy is stopped before the repository is full, and the guest has no error of it (%s)',
	async sink => {
		const repository = temporaryMount(80);
		const bytes = 96 * MIB;
		const vm = await startVm([{name: 'vda', sizeBytes: bytes}]);
		fs.writeFileSync(vm.file('vda'), randomBytes(bytes));
		const request = requestFor(vm, repository, {sink, compression: 'zstd', speedBytesPerSecond: 64 * MIB});
		const failing = take(request, async ({kind}) => {
			if (kind !== 'cut') return;
			for (let at = 0; (await inside(vm.qmp)).jobs.length > 0; at = (at + 65_536) % (4 * MIB)) {
				await vm.write('vda', AFTER, at, 65_536);
			}
		});
		await expect(failing).rejects.toThrow(/^no space is left in .*: the copy was stopped before it was full$/);
		expect(filesIn(repository)).toEqual([]);
		await expectNothingLeft(vm, repository);
	},
);

test('what cannot fit is refused before anything is begun', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: 32 * MIB, fill: BEFORE}]);
	const messages: BackupMessage[] = [];
	const repository = temporaryMount(40);
	const failing = take(requestFor(vm, repository), message => messages.push(message));
	await expect(failing).rejects.toThrow('the disks hold up to 32 MiB, and');
	expect(messages).toEqual([]);
	const packed = await take(requestFor(vm, repository, {compression: 'zstd'}));
	expect(packed[0]).toMatchObject({kind: 'warning', text: expect.stringContaining('has to compress well') as string});
	expect(finishedOf(packed).manifest.warnings).toHaveLength(1);
});

test('a repository that is missing, that is none, or that cannot be written is refused', async () => {
	const vm = await startWeb();
	const folder = temporaryFolder();
	expect(await codeOf(take(requestFor(vm, path.join(folder, 'missing'))))).toBe('NO_REPOSITORY');
	fs.writeFileSync(path.join(folder, 'holiday.jpg'), '');
	expect(await codeOf(take(requestFor(vm, folder)))).toBe('NO_REPOSITORY');
	const mount = temporaryMount(1);
	execFileSync('mount', ['-o', 'remount,ro', mount]);
	const failing = take(requestFor(vm, mount));
	await expect(failing).rejects.toThrow(`cannot write to the repository ${mount}: `);
	expect(fs.readdirSync(folder)).toEqual(['holiday.jpg']);
	expect(fs.readdirSync(runtime)).toEqual([]);
	expect(await inside(vm.qmp)).toEqual({jobs: [], nodes: ['vda-node', 'vdb-node']});
});

test('the speed that was asked for is that of each disk', async () => {
	const vm = await startWeb();
	const cancelling = new AbortController();
	let speeds: number[] = [];
	const failing = take(requestFor(vm, temporaryFolder(), {...CRAWL, signal: cancelling.signal}), async ({kind}) => {
		if (kind !== 'cut') return;
		speeds = ((await executeAny(vm.qmp, 'query-block-jobs')) as {speed: number}[]).map(({speed}) => speed);
		cancelling.abort(new Error('seen'));
	});
	await expect(failing).rejects.toThrow('seen');
	expect(speeds).toEqual([CRAWL.speedBytesPerSecond, CRAWL.speedBytesPerSecond]);
});

test('a plan changes nothing, neither in the repository nor of what a dead run has left', async () => {
	const vm = await startWeb();
	const empty = temporaryFolder();
	const [planned, ...more] = await take(requestFor(vm, empty, {dryRun: true, exclude: ['vdb']}));
	expect(more).toEqual([]);
	expect(planned).toMatchObject({
		kind: 'planned',
		plan: {
			...{vm: 'web', quiesce: false, sink: 'daemon', compression: 'none'},
			disks: [{name: 'vda', sizeBytes: 2 * MIB, format: 'raw'}],
			skipped: [{name: 'vdb', reason: 'excluded by request'}],
		},
	});
	expect(fs.readdirSync(empty)).toEqual([]);
	await expectNothingLeft(vm, empty);
	fs.writeFileSync(path.join(empty, 'holiday.jpg'), '');
	expect(await codeOf(take(requestFor(vm, empty, {dryRun: true})))).toBe('NO_REPOSITORY');

	const repository = temporaryFolder();
	const dying = startBackup(requestFor(vm, repository, CRAWL));
	await dying.until('cut');
	await dying.kill();
	const left = [await inside(vm.qmp), filesIn(repository), fs.readdirSync(runtime)];
	await take(requestFor(vm, repository, {dryRun: true}));
	expect([await inside(vm.qmp), filesIn(repository), fs.readdirSync(runtime)]).toEqual(left);
	await take(requestFor(vm, repository));
});

test('disks are left out and chosen by name, and a name that no disk has is refused', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const {manifest, folder} = finishedOf(await take(requestFor(vm, repository, {only: ['vdb']})));
	expect(manifest.disks.map(({name}) => name)).toEqual(['vdb']);
	expect(manifest.skipped).toEqual([{name: 'vda', reason: 'not asked for'}]);
	expect(fs.readdirSync(folder).sort()).toEqual([
		'SHA256SUMS',
		'machine.json',
		'point.json',
		'vdb.hashes',
		'vdb.qcow2',
	]);
	const failing = take(requestFor(vm, repository, {exclude: ['vdc']}));
	await expect(failing).rejects.toThrow(UsageError);
	await expect(failing).rejects.toThrow("this VM has no disk 'vdc'");
	await expectNothingLeft(vm, repository);
});

test('a VM that does not run is backed up as it stands, told why no better, and not started', async () => {
	const vm = await startWeb();
	const messages = await take(requestFor(vm, temporaryFolder(), {quiesce: 'try'}));
	const text = 'crash-consistent only: the VM does not run (prelaunch), so its guest agent cannot freeze it';
	expect(messages[0]).toEqual({kind: 'warning', text});
	expect(finishedOf(messages).manifest).toMatchObject({
		consistency: 'crash-consistent',
		freeze: null,
		warnings: [text],
	});
	expect(await vm.qmp.execute('query-status')).toMatchObject({status: 'prelaunch'});
	expect(await codeOf(take(requestFor(vm, temporaryFolder(), {quiesce: 'require'})))).toBe('AGENT');
});

test('a VM without a name of its own has to be given one', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB}], {name: null});
	const repository = temporaryFolder();
	await expect(take(requestFor(vm, repository))).rejects.toThrow('this VM has neither a name nor a UUID of its own');
	expect(fs.readdirSync(repository)).toEqual([]);
	const sockets = {qmp: {unix: vm.qmpPath}, name: 'nameless'};
	const {manifest, folder} = finishedOf(await take(requestFor(vm, repository, {sockets})));
	expect(manifest).toMatchObject({vm: 'nameless', uuid: null});
	expect(path.relative(repository, folder)).toBe(`vms/nameless/${manifest.id}`);
});

test('a QEMU of another user can be backed up through the daemon, and is told why not without', async () => {
	// Called so before QEMU 9.1, and gone since 11.
	const old = execFileSync('qemu-system-x86_64', ['-help'], {encoding: 'utf8'}).includes('-runas ');
	const args = old ? ['-runas', '65534:65534'] : ['-run-with', 'user=65534:65534'];
	const monitor = path.join(temporaryFolder(), 'qmp.sock');
	args.push('-qmp', `unix:${monitor},server=on,wait=off`);
	const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: BEFORE}], {args});
	const repository = temporaryFolder();
	const sockets = {qmp: {unix: monitor}};
	const inline = take(requestFor(vm, repository, {sockets, sink: 'inline'}));
	await expect(inline).rejects.toMatchObject({
		message: expect.stringMatching(/^QEMU cannot write .*vda\.qcow2: .*Permission denied/) as string,
		hint: expect.stringContaining('The default sink') as string,
	});
	await expectNothingLeft(vm, repository);
	const finished = finishedOf(await take(requestFor(vm, repository, {sockets})));
	expect(compare(finished, 'vda', reference(MIB))).toContain('identical');
	await expectNothingLeft(vm, repository);
});

test('a QEMU that dies in mid-copy fails the run at once, and nothing is left', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	let diedAt = 0;
	const failing = take(requestFor(vm, repository, CRAWL), async ({kind}) => {
		if (kind !== 'cut') return;
		await vm.kill();
		diedAt = performance.now();
	});
	await expect(failing).rejects.toThrow(QmpDisconnectedError);
	expect(performance.now() - diedAt).toBeLessThan(2_000);
	expect(filesIn(repository)).toEqual([]);
	expectNothingLeftOutside(repository);
});

test('a daemon that dies in mid-copy fails the run, and nothing is left', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	let run = '';
	const failing = take(requestFor(vm, repository, CRAWL), async message => {
		if (message.kind === 'planned') ({run} = message.plan);
		if (message.kind !== 'cut') return;
		const daemon = await processServing(socketIn(path.join(runtime, `run-${run}`)));
		process.kill(daemon!.pid, 'SIGKILL');
	});
	await expect(failing).rejects.toMatchObject({code: 'JOB_FAILED'});
	expect(filesIn(repository)).toEqual([]);
	await expectNothingLeft(vm, repository);
	await vm.write('vda', AFTER, 0, 2 * MIB);
});

test.each(['fleece', undefined] as const)(
	'a disk that another program mirrors is left to it (method %s): its mirror misses nothing',
	async method => {
		const vm = await startWeb();
		const repository = temporaryFolder();
		await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'theirs', 'size': 2 * MIB});
		const mirror = {'job-id': 'mirror', 'device': 'vda-node', 'target': 'theirs', 'sync': 'full', 'speed': 1};
		await executeAny(vm.qmp, 'blockdev-mirror', mirror);
		const before = await executeAny(vm.qmp, 'x-debug-query-block-graph');
		const refused = take(requestFor(vm, repository, {method}));
		await expect(refused).rejects.toMatchObject({code: 'REFUSED'});
		await expect(refused).rejects.toThrow(/another program has a job on vda|in use by block job: mirror|is busy/);
		expect(await executeAny(vm.qmp, 'x-debug-query-block-graph')).toEqual(before);
		await expectNothingLeft(vm, repository);
	},
);

test('what is written while the copy waits for its target is in no copy, though reads were planned before', async () => {
	const cluster = 64 * 1024;
	const sizeBytes = 128 * MIB;
	const vm = await startVm([{name: 'vda', sizeBytes, fill: BEFORE}]);
	const repository = temporaryFolder();
	let run = '';
	let hasBegun = false;
	const messages = await take(requestFor(vm, repository, {method: 'fleece'}), async message => {
		if (message.kind === 'planned') ({run} = message.plan);
		if (message.kind !== 'cut' || hasBegun) return;
		hasBegun = true;
		const daemon = (await processServing(socketIn(path.join(runtime, `run-${run}`))))!;
		process.kill(daemon.pid, 'SIGSTOP');
		// Every other cluster, so that whatever is read at once holds what was and what was not overwritten.
		for (let at = 0; at < sizeBytes; at += 2 * cluster) await vm.write('vda', AFTER, at, cluster);
		process.kill(daemon.pid, 'SIGCONT');
	});
	expect(compare(finishedOf(messages), 'vda', reference(sizeBytes))).toContain('identical');
});
