import {afterAll, beforeAll, beforeEach, expect, onTestFinished, test} from 'vitest';
import {type Guest, startGuest} from '../guest/guest.ts';
import {eventually, isRunning} from '../jobs/bare-vm.ts';
import {guardOf} from '../jobs/backups.ts';
import {jsonLines, lastOf, type QuiesceRun, runQuiesce, startQuiesce} from './run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectThawed,
	type Folder,
	guestName,
	leftInside,
	newRepository,
	partialsIn,
	socketsOf,
	takePoint,
	temporaryFolder,
} from './scene.ts';

/** Longer than any step of a test takes. */
const SLOW = ['--speed', '256K'];
/** What is promised, and what a busy machine may take besides. */
const UNDONE_MS = 5_000 + 15_000;

let folder: Folder;
let guest: Guest;
let repository: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	guest = await startGuest({
		name: guestName('recovered'),
		bytes: 24 << 20,
		raw: 'writing',
		rawRate: 200,
		rawBytes: 4 << 20,
	});
});

beforeEach(async () => {
	repository = await newRepository(folder);
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

const recoverArgs = (...more: string[]): string[] => ['recover', ...socketsOf(guest), '-r', repository, ...more];

/** A run in mid-copy, with its guard. */
async function startCopy(...more: string[]): Promise<{run: QuiesceRun; guard: number}> {
	const run = startQuiesce(backupArgs(guest, repository, ...SLOW, ...more));
	await run.says(/^cut: /m);
	const guard = guardOf(run.pid)!;
	onTestFinished(() => {
		if (isRunning(guard)) process.kill(guard, 'SIGKILL');
	});
	return {run, guard};
}

async function killBoth({run, guard}: {run: QuiesceRun; guard: number}): Promise<void> {
	process.kill(guard, 'SIGKILL');
	run.kill();
	await run.ended;
	await eventually(() => !isRunning(guard));
}

test.each([
	['fleece', 'daemon'],
	['fleece', 'inline'],
	['push', 'daemon'],
	['push', 'inline'],
])('a run that is killed in mid-copy (%s, %s) is undone by its guard, and the guest does not notice', async (...by) => {
	const [method, sink] = by;
	const before = await guest.rawStats();
	const {run, guard} = await startCopy('--method', method, '--sink', sink);
	run.kill();
	await run.ended;
	await eventually(() => !isRunning(guard), UNDONE_MS);
	await expectNothingLeft(guest, repository);
	await expectThawed(guest, 5_000);
	const {count, errors} = await guest.rawStats();
	expect(errors).toBe(before.errors);
	await eventually(async () => (await guest.rawStats()).count > count);
});

test('a backup that is started at once after a killed one succeeds', async () => {
	const {run} = await startCopy();
	run.kill();
	await takePoint(backupArgs(guest, repository, '--quiesce', 'require'));
	await expectNothingLeft(guest, repository);
});

test('recover undoes what run and guard left who were both killed, says each thing, and then finds nothing', async () => {
	await killBoth(await startCopy());
	expect(await leftInside(guest)).not.toEqual([]);
	const first = await runQuiesce(recoverArgs());
	expect(first).toMatchObject({code: 0, stderr: ''});
	expect(first.stdout.trimEnd().split('\n')).toEqual([
		expect.stringMatching(/^removed job qsc-.*, left by run \w{6}$/),
		expect.stringMatching(/^ended the storage daemon of run \w{6}$/),
		expect.stringMatching(/^removed the unfinished point .* of run \w{6}$/),
	]);
	await expectNothingLeft(guest, repository);
	expect(await runQuiesce(recoverArgs())).toMatchObject({code: 0, stdout: '', stderr: 'nothing was left\n'});
	expect(await runQuiesce(recoverArgs('--quiet'))).toMatchObject({code: 0, stdout: '', stderr: ''});
});

test('recover prints JSON lines that end in a summary', async () => {
	await killBoth(await startCopy());
	const ended = await runQuiesce(recoverArgs('--json'));
	expect(ended).toMatchObject({code: 0, stderr: ''});
	const lines = jsonLines(ended);
	expect(lines.map(({message_type: type}) => type)).toEqual(['recovered', 'recovered', 'recovered', 'summary']);
	expect(lastOf(ended)).toEqual({message_type: 'summary', undone: 3});
	expect(lastOf(await runQuiesce(recoverArgs('--json')))).toEqual({message_type: 'summary', undone: 0});
});

test('recover leaves a run alone that is at work, and says whose it is', async () => {
	const {run} = await startCopy();
	const before = await leftInside(guest);
	const second = ['recover', '--qmp', guest.qmp2Path, '--agent', guest.agentPath, '-r', repository];
	const refused = await runQuiesce(second);
	expect(refused).toMatchObject({code: 11, stdout: ''});
	const holder = new RegExp(
		`^quiesce: VM ${guest.name} is in use by backup since .* \\(run \\w{6}, process ${run.pid}\\)$`,
		'm',
	);
	expect(refused.stderr).toMatch(holder);
	expect(await leftInside(guest)).toEqual(before);
	expect(await partialsIn(repository, guest.name)).toHaveLength(1);
	run.kill('SIGINT');
	expect(await run.ended).toMatchObject({code: 130});
	await expectNothingLeft(guest, repository);
});

test('recover of a VM that has ended, or of what is no VM, ends with what is the matter', async () => {
	const nowhere = await runQuiesce(['recover', '--qmp', folder.new('nowhere')]);
	expect(nowhere).toMatchObject({code: 20, stdout: ''});
	const missing = folder.new('missing');
	const noRepository = await runQuiesce(['recover', ...socketsOf(guest), '-r', missing]);
	expect(noRepository).toMatchObject({code: 10, stdout: ''});
	expect(noRepository.stderr).toContain(`there is no repository ${missing}`);
});
