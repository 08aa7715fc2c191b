import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import {LockedError} from '../../src/host/lock.ts';
import {processServing} from '../../src/host/processes.ts';
import {removeLeftovers} from '../../src/operations/leftovers.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {runFolders} from '../../src/operations/run.ts';
import {socketIn} from '../../src/sink/daemon.ts';
import {
	type BareVm,
	eventually,
	executeAny,
	inside,
	isRunning,
	MIB,
	ownRuntimeFolder,
	startVm,
} from '../jobs/bare-vm.ts';
import {compare, expectNothingLeft, filesIn, finishedOf, requestFor, startBackup, take} from '../jobs/backups.ts';
import {setSpeed} from '../jobs/nodes.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {loopMount} from '../sink/failing-flush.ts';

/** Bytes per second: a copy does not end within a test. */
const CRAWL = {speedBytesPerSecond: 64 * 1024};

let runtime: string;

beforeEach(() => {
	runtime = ownRuntimeFolder();
});

function startWeb(name: string | null = 'web', args: readonly string[] = []): Promise<BareVm> {
	const disks = ['vda', 'vdb'].map(disk => ({name: disk, sizeBytes: 4 * MIB, fill: 0xaa}));
	return startVm(disks, {name, args});
}

async function daemonPid(run: string): Promise<number> {
	const daemon = await processServing(socketIn(path.join(runtime, `run-${run}`)));
	return daemon!.pid;
}

/** A run that was killed in mid-copy. */
async function deadRun(vm: BareVm, repository: string): Promise<{run: string; daemon: number}> {
	const dying = startBackup(requestFor(vm, repository, CRAWL));
	const {plan} = await dying.until('planned');
	await dying.until('cut');
	await dying.kill();
	return {run: plan.run, daemon: await daemonPid(plan.run)};
}

test('what a killed run has left is undone by the next, which says so and succeeds', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const {run, daemon} = await deadRun(vm, repository);
	expect(await inside(vm.qmp)).toMatchObject({jobs: [`qsc-${run}-vda`, `qsc-${run}-vdb`]});
	expect(filesIn(repository).filter(file => file.includes('.partial'))).toHaveLength(3);

	const messages = await take(requestFor(vm, repository));
	const words = messages.flatMap(message => (message.kind === 'recovered' ? message.text : []));
	expect(words).toEqual([
		expect.stringMatching(new RegExp(`^removed job qsc-${run}-vd[ab], job .*, node .*, left by run ${run}$`)),
		`ended the storage daemon of run ${run}`,
		expect.stringMatching(new RegExp(`^removed the unfinished point .* of run ${run}$`)),
	]);
	expect(isRunning(daemon)).toBe(false);
	for (const disk of ['vda', 'vdb']) expect(compare(finishedOf(messages), disk, vm.file(disk))).toContain('identical');
	await expectNothingLeft(vm, repository);
});

test('what another program has in the VM is untouched by a recovery', async () => {
	const vm = await startWeb();
	await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'theirs', 'size': 4 * MIB});
	await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'theirs-too', 'size': 4 * MIB});
	const job = {'job-id': 'their-job', 'device': 'theirs', 'target': 'theirs-too', 'sync': 'full', 'speed': 1};
	await executeAny(vm.qmp, 'blockdev-mirror', job);
	const before = await inside(vm.qmp);
	await deadRun(vm, temporaryFolder());
	await removeLeftovers(vm.qmp, await QmpSchema.read(vm.qmp));
	expect(await inside(vm.qmp)).toEqual(before);
});

test('the daemon that a dead run left is not taken from the jobs that it still serves in another VM', async () => {
	const web = await startWeb();
	const repository = temporaryFolder();
	const {run, daemon} = await deadRun(web, repository);
	const other = await startVm([{name: 'vda', sizeBytes: MIB}], {name: 'other'});
	const messages = await take(requestFor(other, repository));
	expect(messages.filter(({kind}) => kind === 'recovered')).toEqual([]);
	expect(isRunning(daemon)).toBe(true);
	await web.write('vda', 0xbb, 0, 4 * MIB);
	expect((await web.qmp.execute('query-jobs')).map(({error}) => error)).toEqual([undefined, undefined]);

	// When that VM has ended, nobody needs it any more.
	await web.kill();
	const later = await take(requestFor(other, repository));
	expect(later).toContainEqual({kind: 'recovered', text: `ended the storage daemon of run ${run}`});
	expect(isRunning(daemon)).toBe(false);
	expect(await runFolders()).toEqual([]);
});

test('a run at work is not disturbed by a second one, which says who is at work', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const first = startBackup(requestFor(vm, repository, CRAWL));
	const {plan} = await first.until('planned');
	await first.until('cut');
	const before = await inside(vm.qmp);
	await vm.qmp.close();

	const second = take(requestFor(vm, repository, {sockets: {qmp: {unix: vm.secondQmpPath}}}));
	await expect(second).rejects.toThrow(LockedError);
	await expect(second).rejects.toThrow(
		new RegExp(`^VM web is in use by backup since .* \\(run ${plan.run}, process ${first.child.pid!}\\)$`),
	);
	const third = take(requestFor(vm, repository));
	await expect(third).rejects.toThrow(/monitor busy|is busy/);
	await first.until('progress');
	expect(before.jobs).toHaveLength(2);
	expect(filesIn(repository).filter(file => file.includes('.partial'))).toHaveLength(3);
});

test('a run at work that came to the VM by another name is found by what it has inside', async () => {
	const vm = await startWeb(null);
	const repository = temporaryFolder();
	const first = startBackup(requestFor(vm, repository, {...CRAWL, sockets: {qmp: {unix: vm.qmpPath}, name: 'one'}}));
	const {plan} = await first.until('planned');
	await first.until('cut');
	await vm.qmp.close();
	const second = take(requestFor(vm, repository, {sockets: {qmp: {unix: vm.secondQmpPath}, name: 'two'}}));
	await expect(second).rejects.toThrow(LockedError);
	await expect(second).rejects.toThrow(
		new RegExp(`^the VM is in use by backup since .* \\(run ${plan.run}, process ${first.child.pid!}\\)$`),
	);
	await first.until('progress');
});

test.each([
	{doing: 'while nothing is written to it', isWritten: false},
	{doing: 'while it is written to', isWritten: true},
])('a daemon that hangs when its run is dead, $doing, is got rid of in bounded time', async ({isWritten}) => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const {run, daemon} = await deadRun(vm, repository);
	process.kill(daemon, 'SIGSTOP');
	if (isWritten) for (const disk of ['vda', 'vdb']) await setSpeed(vm.qmp, `qsc-${run}-${disk}`, 0);
	const begun = performance.now();
	await take(requestFor(vm, repository));
	expect(performance.now() - begun).toBeLessThan(25_000);
	expect(isRunning(daemon)).toBe(false);
	await expectNothingLeft(vm, repository);
});

test('a daemon that hangs when the run is cancelled is got rid of in bounded time', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const cancelling = new AbortController();
	let begun = 0;
	let run = '';
	const failing = take(requestFor(vm, repository, {...CRAWL, signal: cancelling.signal}), async message => {
		if (message.kind === 'planned') ({run} = message.plan);
		if (message.kind !== 'cut') return;
		process.kill(await daemonPid(run), 'SIGSTOP');
		for (const disk of ['vda', 'vdb']) await setSpeed(vm.qmp, `qsc-${run}-${disk}`, 0);
		begun = performance.now();
		cancelling.abort(new Error('enough'));
	});
	await expect(failing).rejects.toThrow('enough');
	expect(performance.now() - begun).toBeLessThan(25_000);
	await expectNothingLeft(vm, repository);
});

test('a repository whose file system is dead leaves nothing in the VM, though its daemon cannot even be killed', async () => {
	const vm = await startWeb();
	const mount = loopMount(path.join(temporaryFolder(), 'device'));
	const repository = path.join(mount, 'repository');
	fs.mkdirSync(repository);
	const thaw = () => {
		execFileSync('fsfreeze', ['-u', mount]);
	};
	const cancelling = new AbortController();
	let begun = 0;
	let run = '';
	const failing = take(requestFor(vm, repository, {...CRAWL, signal: cancelling.signal}), async message => {
		if (message.kind === 'planned') ({run} = message.plan);
		if (message.kind !== 'cut') return;
		execFileSync('fsfreeze', ['-f', mount]);
		for (const disk of ['vda', 'vdb']) await setSpeed(vm.qmp, `qsc-${run}-${disk}`, 0);
		onTestFinished(() => {
			execFileSync('sh', ['-c', 'fsfreeze -u "$0" || true', mount], {stdio: 'ignore'});
		});
		begun = performance.now();
		cancelling.abort(new Error('enough'));
	});
	failing.catch(() => undefined);
	await eventually(() => begun > 0);
	await eventually(async () => {
		const {jobs, nodes} = await inside(vm.qmp);
		return [...jobs, ...nodes].every(name => !name.startsWith('qsc-'));
	}, 25_000);
	// Its own disks are on another file system, and are there for the guest.
	await vm.write('vda', 0xbb, 0, MIB);
	thaw();
	await expect(failing).rejects.toThrow('enough');
	await expectNothingLeft(vm, repository);
});
