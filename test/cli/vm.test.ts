import {readdir, readFile, stat, writeFile} from 'node:fs/promises';
import {afterAll, beforeAll, describe, expect, test} from 'vitest';
import {type Guest, startGuest} from '../guest/guest.ts';
import {type Ended, jsonLines, lastOf, runQuiesce, startQuiesce} from './run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectThawed,
	type Folder,
	guestName,
	isFrozen,
	newRepository,
	socketsOf,
	temporaryFolder,
} from './scene.ts';

let folder: Folder;
let guest: Guest;
let repository: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	guest = await startGuest({name: guestName('operated'), bytes: 24 << 20});
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

const oneDocument = ({stdout}: Ended): Record<string, unknown> => JSON.parse(stdout) as Record<string, unknown>;

describe('discover', () => {
	test("lists a VM's sockets, for people and as JSON", async () => {
		const plain = await runQuiesce(['discover']);
		expect(plain).toMatchObject({code: 0, stderr: ''});
		expect(plain.stdout).toContain(`${guest.name}  (process ${guest.pid}`);
		expect(plain.stdout).toContain(`  monitor  unix:${guest.qmpPath}`);
		expect(plain.stdout).toContain(`  agent    unix:${guest.agentPath}`);
		const vms = JSON.parse((await runQuiesce(['discover', '--json'])).stdout) as {name?: string}[];
		expect(vms.find(({name}) => name === guest.name)).toMatchObject({
			pid: guest.pid,
			monitors: [`unix:${guest.qmpPath}`, `unix:${guest.qmp2Path}`],
			agent: `unix:${guest.agentPath}`,
		});
	});
});

describe('inspect', () => {
	test('shows disks and agent of a VM that is named', async () => {
		const {code, stdout, stderr} = await runQuiesce(['inspect', guest.name]);
		expect({code, stderr}).toEqual({code: 0, stderr: ''});
		expect(stdout).toMatch(new RegExp(`^VM +${guest.name}, running$`, 'm'));
		expect(stdout).toMatch(/^guest agent +[\d.]+[,;] can freeze the guest$/m);
		for (const disk of ['vda', 'vdb']) expect(stdout).toMatch(new RegExp(`^ +${disk} `, 'm'));
	});

	test('prints one JSON document', async () => {
		const report = oneDocument(await runQuiesce(['inspect', ...socketsOf(guest), '--json']));
		expect(report).toMatchObject({
			name: guest.name,
			status: 'running',
			agent: {state: 'thawed', can_freeze: true},
			jobs: [],
		});
	});

	test('says so when no agent is named, or none answers', async () => {
		const without = await runQuiesce(['inspect', '--qmp', guest.qmpPath]);
		expect(without.stdout).toMatch(/^guest agent +none known/m);
		await guest.read('kill -STOP $(pidof qemu-ga)');
		try {
			const hung = await runQuiesce(['inspect', ...socketsOf(guest)]);
			expect(hung.code).toBe(0);
			expect(hung.stdout).toMatch(/^guest agent +no answer: no guest agent answers/m);
		} finally {
			await guest.read('kill -CONT $(pidof qemu-ga)');
		}
	});
});

describe('freeze', () => {
	const freeze = (...more: string[]) => ['freeze', '--agent', guest.agentPath, ...more];

	test('runs a command with our streams while the guest is frozen, thaws, and exits with its status', async () => {
		const script = 'echo begun; read line; echo "read $line"; exit 7';
		const ended = await runQuiesce(freeze('--', 'sh', '-c', script), {input: 'a line\n'});
		expect(ended.code).toBe(7);
		expect(ended.stdout).toBe('begun\nread a line\n');
		expect(ended.stderr).toMatch(/^thawed: 2 file systems /m);
		await expectThawed(guest, 2_000);
	});

	test('the guest takes no writes while the command runs', async () => {
		const stop = folder.new('stop');
		const script = `echo begun >&2; while [ ! -e ${stop} ]; do sleep 0.05; done`;
		const run = startQuiesce(freeze('--json', '--', 'sh', '-c', script));
		await run.says(/begun/);
		expect(await isFrozen(guest)).toBe(true);
		await writeFile(stop, '');
		const ended = await run.ended;
		expect(ended.code).toBe(0);
		expect(lastOf(ended)).toMatchObject({exit_status: 0, file_systems: 2, thawed: 2});
		await expectThawed(guest, 2_000);
	});

	test.each([
		['killed by a signal', ['sh', '-c', 'kill -9 $$'], 137],
		['that does not exist', ['/nowhere/program'], 1],
	])('a command %s ends the freeze', async (_what, command, code) => {
		const ended = await runQuiesce(freeze('--', ...command));
		expect(ended.code).toBe(code);
		if (code === 1) expect(ended.stderr).toContain('cannot run /nowhere/program');
		await expectThawed(guest, 2_000);
	});

	test('a command that runs longer than --for is ended', async () => {
		const ended = await runQuiesce(freeze('--for', '1s', '--json', '--', 'sleep', '60'));
		expect(ended.code).toBe(1);
		expect(ended.ms).toBeLessThan(10_000);
		expect(lastOf(ended)).toMatchObject({
			message_type: 'exit_error',
			message: 'sleep ran longer than 1 s while the guest was frozen',
		});
		await expectThawed(guest, 2_000);
	});

	test('Ctrl-C ends the command and thaws the guest', async () => {
		const run = startQuiesce(freeze('--', 'sh', '-c', 'echo begun; exec sleep 60'));
		await run.says(/begun/);
		run.kill('SIGINT');
		expect((await run.ended).code).toBe(130);
		await expectThawed(guest, 2_000);
	});

	test('without a command it leaves the guest frozen until thaw, and nobody else may freeze it', async () => {
		const frozen = await runQuiesce(freeze('--json'));
		expect(frozen.code).toBe(0);
		expect(oneDocument(frozen)).toMatchObject({file_systems: 2});
		expect(await isFrozen(guest)).toBe(true);
		const second = await runQuiesce(freeze('--json'));
		expect(second.code).toBe(11);
		expect(lastOf(second)).toMatchObject({
			code: 'LOCKED',
			message: expect.stringMatching(/a freeze that lasts until .*process \d+/) as string,
		});
		const thawed = await runQuiesce(['thaw', '--agent', guest.agentPath, '--json']);
		expect(thawed.code).toBe(0);
		expect(oneDocument(thawed)).toEqual({was: 'frozen', file_systems: 2});
		await expectThawed(guest, 2_000);
	});

	test('without a thaw the guard thaws the guest when --for has passed', async () => {
		const {code, stdout} = await runQuiesce(freeze('--for', '2s'));
		expect(code).toBe(0);
		expect(stdout).toMatch(/^frozen: 2 file systems, until/);
		expect(await isFrozen(guest)).toBe(true);
		await expectThawed(guest, 5_000);
		// The guard then lets go of the guest.
		await expect
			.poll(async () => (await runQuiesce(['thaw', '--agent', guest.agentPath])).stdout, {timeout: 10_000})
			.toBe('the guest was not frozen\n');
	});

	test('--mountpoint freezes only what is mounted there', async () => {
		const run = startQuiesce(freeze('--mountpoint', '/mnt/b', '--', 'sh', '-c', 'echo begun; exec sleep 60'));
		await run.says(/begun/);
		await guest.read('touch /mnt/a/free', 2_000);
		run.kill('SIGTERM');
		const ended = await run.ended;
		expect(ended.code).toBe(143);
		await expectThawed(guest, 2_000);
		const nothing = await runQuiesce(freeze('--mountpoint', '/nowhere', '--', 'true'));
		expect(nothing.code).toBe(24);
		expect(nothing.stderr).toContain('froze no file system');
	});
});

test('thaw of a guest that is not frozen does no harm, and says so', async () => {
	expect(await runQuiesce(['thaw', guest.name])).toMatchObject({code: 0, stdout: 'the guest was not frozen\n'});
});

describe('backup', () => {
	test('--dry-run says what would be done, and does nothing', async () => {
		const ended = await runQuiesce(backupArgs(guest, repository, '--dry-run'));
		expect(ended).toMatchObject({code: 0, stdout: ''});
		expect(ended.stderr).toContain('full backup of vda (24.0 MiB), vdb (24.0 MiB)');
		expect(await readdir(repository)).toEqual([]);
		await expectNothingLeft(guest, repository);
	});

	test('prints the point on stdout and words on stderr; with --quiet only the point', async () => {
		const loud = await runQuiesce(['backup', guest.name, '-r', repository]);
		expect(loud.code).toBe(0);
		expect(loud.stdout).toMatch(new RegExp(`^${guest.name}@[-0-9TZ.]+\n$`));
		expect(loud.stderr).toMatch(/^done: quiesced full point of 2 disks/m);
		expect(loud.stderr).not.toMatch(/\u001b/);
		const quiet = await runQuiesce(['backup', guest.name, '--quiet'], {env: {QUIESCE_REPOSITORY: repository}});
		expect(quiet).toMatchObject({code: 0, stderr: ''});
		expect(quiet.stdout).toMatch(new RegExp(`^${guest.name}@[-0-9TZ.]+\n$`));
	});

	test('--json prints a line a message, and a summary at the end', async () => {
		const ended = await runQuiesce(backupArgs(guest, repository, '--json', '--exclude', 'vdb'));
		expect(ended).toMatchObject({code: 0, stderr: ''});
		const types = jsonLines(ended).map(({message_type: type}) => type);
		expect(types.filter(type => type !== 'progress')).toEqual(['planned', 'cut', 'settling', 'summary']);
		expect(lastOf(ended)).toMatchObject({manifest: {skipped: [{name: 'vdb', reason: 'excluded by request'}]}});
	});

	test('--transcript holds both directions of every socket, for its owner alone', async () => {
		const file = folder.new('transcript');
		const {code} = await runQuiesce(backupArgs(guest, repository, '--transcript', file, '--quiet'));
		expect(code).toBe(0);
		expect((await stat(file)).mode & 0o777).toBe(0o600);
		const text = await readFile(file, 'utf8');
		for (const peer of ['qmp', 'agent', 'daemon']) {
			for (const arrow of ['->', '<-']) expect(text).toMatch(new RegExp(`^\\S+Z ${peer} ${arrow} \\{.*\\}$`, 'm'));
		}
	});

	test('--log info prints JSON lines on stderr', async () => {
		const {code, stderr} = await runQuiesce(backupArgs(guest, repository, '--log', 'info', '--quiet'));
		expect(code).toBe(0);
		expect(logLines(stderr).map(({msg}) => msg)).toEqual(expect.arrayContaining(['planned', 'cut', 'finished']));
	});

	test('--log json has the words too, so that stderr is JSON lines alone', async () => {
		const {code, stderr} = await runQuiesce(backupArgs(guest, repository, '--log', 'json'));
		expect(code).toBe(0);
		const said = logLines(stderr).map(({msg}) => msg);
		expect(said).toEqual(expect.arrayContaining(['planned', 'cut', 'finished']));
		expect(said).toContainEqual(expect.stringMatching(/^done: /));
	});

	test.each([
		{what: 'a VM that is not there', args: ['jobs', 'nobody', '--log', 'json'], code: 'USAGE', exitCode: 2},
		{what: 'an unknown option', args: ['jobs', '--no-such', '--log=json'], code: 'USAGE', exitCode: 2},
	])('--log json has the error: $what', async ({args, code, exitCode}) => {
		const run = await runQuiesce(args);
		expect(run.code).toBe(exitCode);
		expect(logLines(run.stderr)).toEqual([expect.objectContaining({level: 50, code, exitCode})]);
	});
});

function logLines(stderr: string): {readonly msg: string}[] {
	return stderr
		.trimEnd()
		.split('\n')
		.map(line => JSON.parse(line) as {msg: string});
}
