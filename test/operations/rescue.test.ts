import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';
import {recover} from '../../src/operations/recover.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {type CutLine, lineTo} from '../guest-agent/cut-line.ts';
import {blockState} from '../cut/fleecing.ts';
import {
	expectNothingLeft,
	expectNothingLeftOutside,
	finishedOf,
	requestFor,
	startBackup,
	take,
} from '../jobs/backups.ts';
import {type BareVm, eventually, executeAny, isRunning, MIB, ownRuntimeFolder, startVm} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {startToolAt, type ToolAtStep} from './tool-at-step.ts';

/** What is promised, and what a busy machine may take besides. */
const UNDONE_MS = 5_000 + 15_000;
const RESUMED_MS = 2_000 + 8_000;
/** Bytes per second: a copy does not end within a test. */
const CRAWL = {speedBytesPerSecond: 64 * 1024};

beforeEach(() => {
	ownRuntimeFolder();
});

function startWeb(options: {iothread?: boolean; name?: string} = {}): Promise<BareVm> {
	const {name = 'web', ...disk} = options;
	return startVm(
		['vda', 'vdb'].map(one => ({name: one, sizeBytes: 4 * MIB, fill: 0xaa, ...disk})),
		{name},
	);
}

const gone = (guard: number): Promise<void> => eventually(() => !isRunning(guard), UNDONE_MS);

const isPaused = async ({qmp}: BareVm): Promise<boolean> => (await qmp.execute('query-status')).status === 'paused';

/** Of a copy that its guard finds going on. */
async function killInMidCopy(vm: BareVm, repository: string, rest: Partial<BackupRequest> = {}) {
	const dying = startBackup(requestFor(vm, repository, {...CRAWL, ...rest}));
	const {plan} = await dying.until('planned');
	await dying.until('cut');
	await dying.until('progress');
	return {run: plan.run, stderr: () => dying.stderr(), guard: await dying.killAlone()};
}

test.each([
	{method: 'fleece', sink: 'daemon'},
	{method: 'fleece', sink: 'inline'},
	{method: 'push', sink: 'daemon'},
	{method: 'push', sink: 'inline'},
] as const)('what a run that is killed alone has left ($method, $sink) is undone by its guard', async choice => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const before = await blockState(vm.qmp);
	const {run, guard, stderr} = await killInMidCopy(vm, repository, choice);
	await vm.write('vda', 0xbb, 0, MIB);
	await gone(guard);
	await vm.write('vdb', 0xcc, MIB, MIB);
	expect(await blockState(vm.qmp)).toEqual(before);
	await expectNothingLeft(vm, repository);
	expect(fs.readdirSync(path.dirname(vm.file('vda'))).sort()).toEqual(['vda.raw', 'vdb.raw']);
	for (const [disk, byte, offset] of [
		['vda', 0xbb, 0],
		['vdb', 0xcc, MIB],
	] as const) {
		const written = fs.readFileSync(vm.file(disk)).subarray(offset, offset + MIB);
		expect(written.equals(Buffer.alloc(MIB, byte))).toBe(true);
	}
	const why = 'quiesce: guard: the run ended before its work was done:';
	const lines = stderr().trimEnd().split('\n');
	expect(lines).toEqual([
		expect.stringMatching(new RegExp(`^${why} removed job qsc-${run}-.*, left by run ${run}$`)),
		...(choice.sink === 'daemon' ? [`${why} ended the storage daemon of run ${run}`] : []),
		expect.stringMatching(new RegExp(`^${why} removed the unfinished point .* of run ${run}$`)),
	]);
});

test('a backup that is started while the guard of a dead run is at work succeeds', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const {guard} = await killInMidCopy(vm, repository);
	finishedOf(await take(requestFor(vm, repository)));
	await gone(guard);
	await expectNothingLeft(vm, repository);
});

test('a guard waits for the monitor that another client holds', async () => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const dying = startBackup(requestFor(vm, repository, CRAWL));
	await dying.until('progress');
	// It is the next one in QEMU's queue.
	const crowding = QmpConnection.open({unix: vm.qmpPath});
	const guard = await dying.killAlone();
	const other = await crowding;
	onTestFinished(() => other.close());
	expect((await other.execute('query-jobs')).length).toBe(2);
	expect(isRunning(guard)).toBe(true);
	await other.close();
	await gone(guard);
	await expectNothingLeft(vm, repository);
});

test('a guard puts the VM right also where the repository is there no more', async () => {
	const vm = await startWeb();
	const repository = path.join(temporaryFolder(), 'repository');
	fs.mkdirSync(repository);
	const before = await blockState(vm.qmp);
	const dying = startBackup(requestFor(vm, repository, CRAWL));
	await dying.until('progress');
	fs.renameSync(repository, `${repository}-moved`);
	const guard = await dying.killAlone();
	await gone(guard);
	expect(await blockState(vm.qmp)).toEqual(before);
	expect(dying.stderr()).toContain(`there is no repository ${repository}`);
	fs.renameSync(`${repository}-moved`, repository);
	finishedOf(await take(requestFor(vm, repository)));
	await expectNothingLeft(vm, repository);
});

test.each([
	{what: 'QEMU and the run are killed together', alone: false},
	{what: 'QEMU alone is killed', alone: true},
])('when $what nothing is left on the host and in the repository', async ({alone}) => {
	const vm = await startWeb();
	const repository = temporaryFolder();
	const dying = startBackup(requestFor(vm, repository, CRAWL));
	await dying.until('progress');
	if (alone) {
		await vm.kill();
		await expect(dying.until('finished')).rejects.toThrow(/closed|ended|was lost/);
		await eventually(() => !isRunning(dying.child.pid!), UNDONE_MS);
	} else {
		const killed = vm.kill();
		await gone(await dying.killAlone());
		await killed;
		expect(dying.stderr()).toContain('removed the unfinished point');
	}
	expectNothingLeftOutside(repository);
});

test.each(['before', 'after'])(
	'a VM that the operator has paused %s the run began is not resumed by guard, recovery or backup',
	async when => {
		const vm = await startWeb({iothread: true});
		await executeAny(vm.qmp, 'cont');
		const repository = temporaryFolder();
		if (when === 'before') await executeAny(vm.qmp, 'stop');
		const dying = startBackup(requestFor(vm, repository, CRAWL));
		await dying.until('progress');
		if (when === 'after') await executeAny(vm.qmp, 'stop');
		await gone(await dying.killAlone());
		expect(await isPaused(vm)).toBe(true);
		const second = startBackup(requestFor(vm, repository, CRAWL));
		await second.until('progress');
		await second.kill();
		const request = {sockets: {qmp: {unix: vm.qmpPath}}, signal: new AbortController().signal, tell: () => undefined};
		expect(await textsOf(recover(request))).toEqual([
			expect.stringMatching(/^removed job/),
			expect.stringMatching(/^ended the storage daemon/),
		]);
		expect(await isPaused(vm)).toBe(true);
		finishedOf(await take(requestFor(vm, repository)));
		expect(await isPaused(vm)).toBe(true);
	},
);

/** The command to resume is sent only once that to pause has been answered. */
const PAUSED = 'qmp -> stop #1';

/** A run of a VM with I/O threads and running processors, which QEMU before 9.0 has paused for the cut. */
async function stoppedAt(
	step: string,
	{sink = 'daemon', monitor = vm => Promise.resolve(vm.qmpPath)}: StoppedOptions = {},
): Promise<{vm: BareVm; repository: string; tool: ToolAtStep}> {
	const vm = await startWeb({iothread: true});
	await executeAny(vm.qmp, 'cont');
	const repository = temporaryFolder();
	const args = ['backup', '--qmp', await monitor(vm), '-r', repository, '--quiesce', 'never', '--sink', sink];
	return {vm, repository, tool: startToolAt(step, args)};
}

interface StoppedOptions {
	readonly sink?: string;
	/** Where the run reaches the VM's monitor. */
	readonly monitor?: (vm: BareVm) => Promise<string>;
}

/** Later QEMUs need no pause: there the run comes to its end. */
async function neverPaused(tool: ToolAtStep): Promise<boolean> {
	if (await tool.stopped) return false;
	expect(await tool.ended).toEqual({code: 0, signal: null});
	expect(tool.steps().filter(step => step.includes(' stop '))).toEqual([]);
	return true;
}

test.each([PAUSED, 'qmp <- STOP #1', 'qmp <- stop #1', 'qmp -> cont #1'])(
	'a VM whose run is killed while it has it paused (%s) is resumed by the guard',
	async step => {
		const {vm, repository, tool} = await stoppedAt(step);
		if (await neverPaused(tool)) return;
		const guard = await tool.killAlone();
		await eventually(async () => !(await isPaused(vm)), RESUMED_MS);
		await gone(guard);
		await expectNothingLeft(vm, repository);
		expect(await isPaused(vm)).toBe(false);
		if (step === PAUSED) expect(tool.stderr()).toContain('resumed the VM, which run ');
	},
);

test.each(['recover', 'backup'] as const)(
	'a VM that is left paused, as the guard was killed too, is resumed by the next %s',
	async next => {
		const {vm, repository, tool} = await stoppedAt(PAUSED, {sink: 'inline'});
		if (await neverPaused(tool)) return;
		await tool.killBoth();
		expect(await isPaused(vm)).toBe(true);
		// What is done for another VM does not take away what tells that this one is to go on.
		const other = await startVm([{name: 'vda', sizeBytes: MIB}], {name: 'other'});
		await take(requestFor(other, repository));
		expect(await isPaused(vm)).toBe(true);

		const sockets = {qmp: {unix: vm.qmpPath}};
		const request = {sockets, repository, signal: new AbortController().signal, tell: () => undefined};
		const words =
			next === 'recover'
				? await textsOf(recover(request))
				: (await take(requestFor(vm, repository))).flatMap(message =>
						message.kind === 'recovered' ? message.text : [],
					);
		expect(words[0]).toMatch(/^resumed the VM, which run \w{6} left paused$/);
		expect(await isPaused(vm)).toBe(false);
		await expectNothingLeft(vm, repository);
	},
);

test('a run that hangs while it has the VM paused is ended by its guard, and the VM goes on', async () => {
	const {vm, repository, tool} = await stoppedAt(PAUSED);
	if (await neverPaused(tool)) return;
	expect(await isPaused(vm)).toBe(true);
	expect(await tool.ended).toEqual({code: null, signal: 'SIGKILL'});
	await eventually(async () => !(await isPaused(vm)), RESUMED_MS);
	await eventually(() => tool.stderr().includes('removed the unfinished point'), UNDONE_MS);
	expect(tool.stderr()).toContain('the run hung while it was about to pause the VM, and was ended: resumed the VM');
	await eventually(() => fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!).length === 0, UNDONE_MS);
	await expectNothingLeft(vm, repository);
});

test('a VM goes on whose run loses the monitor while it has it paused', async () => {
	let line: CutLine | undefined;
	const monitor = async (vm: BareVm): Promise<string> => {
		line = await lineTo(vm.qmpPath, path.join(temporaryFolder(), 'line.sock'));
		return line.address.unix;
	};
	const {vm, repository, tool} = await stoppedAt(PAUSED, {monitor});
	if (await neverPaused(tool)) return;
	await eventually(() => isPaused(vm));
	line?.cut();
	process.kill(tool.pid, 'SIGCONT');
	expect(await tool.ended).toMatchObject({code: 23});
	await eventually(async () => !(await isPaused(vm)), RESUMED_MS);
	await expectNothingLeft(vm, repository);
});
