import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import {markFrozen} from '../../src/guest-agent/frozen-marker.ts';
import {LockedError, takeLock} from '../../src/host/lock.ts';
import {processServing} from '../../src/host/processes.ts';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';
import type {DiscoveredVm} from '../../src/operations/discover.ts';
import {recoverAll} from '../../src/operations/recover-all.ts';
import {recover, type RecoverRequest} from '../../src/operations/recover.ts';
import {removeLeftovers} from '../../src/operations/leftovers.ts';
import {openVm} from '../../src/operations/vm-session.ts';
import {beginRun, runFolders} from '../../src/operations/run.ts';
import {socketIn} from '../../src/sink/nbd-socket.ts';
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
import {FakeAgent} from '../support/fake-agent.ts';
import {sampled} from '../support/thorough.ts';
import {textsOf} from './recovered.ts';
import {startToolAt} from './tool-at-step.ts';

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
async function deadRun(
	vm: BareVm,
	repository: string,
	rest: Partial<BackupRequest> = {},
): Promise<{run: string; daemon: number}> {
	const dying = startBackup(requestFor(vm, repository, {...CRAWL, ...rest}));
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
	const session = await openVm({qmp: {unix: vm.qmpPath}});
	try {
		await removeLeftovers(session);
	} finally {
		await session.close();
	}
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

function recoveryOf(vm: BareVm, repository?: string): RecoverRequest {
	return {sockets: {qmp: {unix: vm.qmpPath}}, repository, signal: new AbortController().signal, tell: () => undefined};
}

test.each(['fleece', 'push'] as const)(
	'a recovery undoes what a killed run has left (%s), and says each thing',
	async method => {
		const vm = await startWeb();
		const repository = temporaryFolder();
		const before = await inside(vm.qmp);
		const {run, daemon} = await deadRun(vm, repository, {method});
		expect(await textsOf(recover(recoveryOf(vm, repository)))).toEqual([
			expect.stringMatching(new RegExp(`^removed job qsc-${run}-vd[ab], job .*, left by run ${run}$`)),
			`ended the storage daemon of run ${run}`,
			expect.stringMatching(new RegExp(`^removed the unfinished point .* of run ${run}$`)),
		]);
		expect(isRunning(daemon)).toBe(false);
		expect(await inside(vm.qmp)).toEqual(before);
		await expectNothingLeft(vm, repository);
		expect(await textsOf(recover(recoveryOf(vm, repository)))).toEqual([]);
	},
);

const HALF_WAY = [
	{method: 'fleece', step: 'qmp -> job-cancel #1'},
	{method: 'fleece', step: 'qmp <- job-dismiss #1'},
	{method: 'fleece', step: 'qmp <- blockdev-reopen #1'},
	{method: 'fleece', step: 'qmp <- qom-set #1'},
	{method: 'fleece', step: 'qmp <- blockdev-del #3'},
	{method: 'push', step: 'qmp <- job-dismiss #2'},
	{method: 'push', step: 'host rm run-ID #1'},
] as const;

test.each(sampled(HALF_WAY, 3))(
	'a recovery ($method) that is killed half-way ($step) is finished by the next',
	async ({method, step}) => {
		const vm = await startWeb();
		const repository = temporaryFolder();
		const before = await inside(vm.qmp);
		await deadRun(vm, repository, {method});
		const half = startToolAt(step, ['recover', '--qmp', vm.qmpPath, '-r', repository]);
		expect(await half.stopped).toBe(true);
		await half.killBoth();
		await textsOf(recover(recoveryOf(vm, repository)));
		expect(await inside(vm.qmp)).toEqual(before);
		await expectNothingLeft(vm, repository);
	},
);

test('a recovery leaves a repository that is not there for the end, and puts the VM right before', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const before = await inside(vm.qmp);
	await deadRun(vm, repository);
	await expect(textsOf(recover(recoveryOf(vm, `${repository}-elsewhere`)))).rejects.toThrow('there is no repository');
	expect(await inside(vm.qmp)).toEqual(before);
	expect(await textsOf(recover(recoveryOf(vm, repository)))).toEqual([
		expect.stringContaining('removed the unfinished point'),
	]);
});

test('exports and bitmaps of dead runs are removed, and those of others and of live runs are not', async () => {
	const vm = await startWeb();
	const live = await beginRun('backup');
	onTestFinished(() => live.end());
	const server = {addr: {type: 'unix', data: {path: path.join(vm.dir, 'nbd.sock')}}};
	await executeAny(vm.qmp, 'nbd-server-start', server);
	for (const id of ['qsc-abc123-vda', 'theirs', 'qsc-theirs']) {
		const node = {'type': 'nbd', id, 'node-name': 'vda-node', 'name': id};
		await executeAny(vm.qmp, 'block-export-add', node);
	}
	for (const name of ['qsc-abc123-point', 'theirs', 'qscabc123']) {
		await executeAny(vm.qmp, 'block-dirty-bitmap-add', {node: 'vda-node', name});
	}
	expect(await textsOf(recover(recoveryOf(vm)))).toEqual([
		'removed export qsc-abc123-vda, bitmap qsc-abc123-point, left by run abc123',
	]);
	const exports = await vm.qmp.execute('query-block-exports');
	expect(exports.map(({id}) => id).sort()).toEqual(['qsc-theirs', 'theirs']);
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	const bitmaps = nodes.flatMap(node => (node['dirty-bitmaps'] ?? []).map(({name}) => name));
	expect(bitmaps.sort()).toEqual(['qscabc123', 'theirs']);
	await executeAny(vm.qmp, 'block-dirty-bitmap-add', {node: 'vda-node', name: `qsc-${live.id}-point`});
	await expect(textsOf(recover(recoveryOf(vm)))).rejects.toThrow(LockedError);
});

test('scratch files that a killed run did not come to take the name from are removed, and no others', async () => {
	const vm = await startWeb();
	const live = await beginRun('backup');
	onTestFinished(() => live.end());
	const beside = path.dirname(vm.file('vda'));
	const elsewhere = temporaryFolder();
	const stay = [
		`.qsc-${live.id}-vda-scratch.scratch`,
		'qsc-abc123-vda-scratch.scratch',
		'.qsc-abc123-vda-scratch.scratch.old',
		'.qsc-mine-scratch.scratch',
		'.theirs.scratch',
	];
	for (const folder of [beside, elsewhere]) {
		for (const name of [...stay, '.qsc-abc123-vda-scratch.scratch']) fs.writeFileSync(path.join(folder, name), '');
	}
	const removed = (folder: string) =>
		`removed the scratch file ${folder}/.qsc-abc123-vda-scratch.scratch of run abc123`;
	expect(await textsOf(recover(recoveryOf(vm)))).toEqual([removed(beside)]);
	expect(fs.readdirSync(beside).sort()).toEqual([...stay, 'vda.raw', 'vdb.raw'].sort());
	expect(await textsOf(recover({...recoveryOf(vm), scratch: elsewhere}))).toEqual([removed(elsewhere)]);
	expect(fs.readdirSync(elsewhere).sort()).toEqual(stay.sort());
	expect(await textsOf(recover({...recoveryOf(vm), scratch: path.join(elsewhere, 'nowhere')}))).toEqual([]);
});

test('what has the name of a scratch file and cannot be removed is told of, and holds up no backup', async () => {
	const vm = await startWeb();
	const folder = path.join(path.dirname(vm.file('vda')), '.qsc-abc123-vda-scratch.scratch');
	fs.mkdirSync(folder);
	const messages = await take(requestFor(vm, temporaryFolder()));
	expect(messages).toContainEqual({
		kind: 'recovered',
		text: expect.stringMatching(/^could not remove the scratch file of run abc123: .*\.qsc-abc123/) as string,
	});
	finishedOf(messages);
	expect(fs.existsSync(folder)).toBe(true);
});

test('a backup waits for a recovery of its VM', async () => {
	const vm = await startWeb();
	const {UUID} = await vm.qmp.execute('query-uuid');
	const holder = {pid: process.pid, run: 'abc123', doing: 'a recovery'};
	const lock = await takeLock(`vm ${UUID}`, 'the VM', holder);
	const seen: string[] = [];
	const backing = take(requestFor(vm, temporaryFolder()), ({kind}) => seen.push(kind));
	// It is in the VM, and has begun its run, as soon as its folder is there.
	await eventually(async () => (await runFolders()).length > 0);
	expect(seen).toEqual([]);
	await lock.release();
	finishedOf(await backing);
});

test('all VMs of a host are recovered one by one, and those that are not to be had are told of', async () => {
	const repository = temporaryFolder();
	const [dead, busy, live] = [
		await startWeb('dead'),
		await startVm([{name: 'vda', sizeBytes: MIB}], {name: 'busy'}),
		await startVm([{name: 'vda', sizeBytes: 4 * MIB}], {name: 'live'}),
	];
	const {run} = await deadRun(dead, repository);
	const ended = await startWeb('ended');
	await deadRun(ended, repository);
	await ended.kill();
	// This one ends the daemon of the VM that has ended.
	const working = startBackup(requestFor(live, repository, CRAWL));
	await working.until('progress');
	const before = await inside(live.qmp);
	await live.qmp.close();

	const found = ({qmpPath, secondQmpPath}: BareVm, name: string, both: boolean): DiscoveredVm => ({
		...{state: 'running', pid: 1, name, uuid: undefined, uid: 0, user: undefined, agent: undefined, binary: undefined},
		monitors: [{unix: secondQmpPath}, ...(both ? [{unix: qmpPath}] : [])],
		problems: [],
	});
	// The tests hold the second monitors of the first two.
	const vms = [found(dead, 'dead', true), found(busy, 'busy', false), found(live, 'live', false)];
	const told: string[] = [];
	const request = {repository, signal: new AbortController().signal, tell: (what: string) => told.push(what)};
	const words = await textsOf(recoverAll(request, () => Promise.resolve(vms)));
	expect(words).toEqual([
		expect.stringMatching(new RegExp(`^removed job .*, left by run ${run}$`)),
		`ended the storage daemon of run ${run}`,
		expect.stringMatching(new RegExp(`^removed the unfinished point .* of run ${run}$`)),
		expect.stringMatching(/^removed the unfinished point/),
	]);
	expect(told).toEqual([
		expect.stringMatching(/^busy: not looked into: monitor busy/),
		expect.stringMatching(/^live: a run is at work: .* is in use by backup since/),
	]);
	await working.until('progress');
	expect(before.jobs).toHaveLength(1);
	expect(filesIn(repository).filter(file => file.includes('.partial'))).toHaveLength(2);
});

test.each(['never', 'try'] as const)(
	'a backup (%s) goes on where a dead run may have left the guest frozen and the agent is silent',
	async quiesce => {
		const vm = await startWeb();
		await executeAny(vm.qmp, 'cont');
		const agent = await FakeAgent.listen(() => undefined, 'script');
		await markFrozen(agent.address, 'abc123');
		const begun = performance.now();
		const sockets = {qmp: {unix: vm.qmpPath}, agent: agent.address};
		const messages = await take(requestFor(vm, temporaryFolder(), {sockets, quiesce}));
		expect(performance.now() - begun).toBeLessThan(30_000);
		expect(messages).toContainEqual({
			kind: 'recovered',
			text: expect.stringMatching(
				/^could not thaw the guest, which run abc123 may have left frozen: no guest agent answers on /,
			) as string,
		});
		expect(finishedOf(messages).manifest.consistency).toBe('crash-consistent');
	},
);
