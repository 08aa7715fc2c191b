import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {chmod, copyFile, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {createInterface} from 'node:readline';
import {afterAll, beforeAll, describe, expect, onTestFinished, test} from 'vitest';
import {backupArgs, guestName, onMonitor, socketsOf} from '../cli/scene.ts';
import {type Finished, outcome, output} from '../guest/command.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {isThorough} from '../support/thorough.ts';
import {node, NODES} from './nodes.ts';

const project = join(import.meta.dirname, '../..');
const EXAMPLES = join(project, 'docs/examples');

/** A project of its own, which depends on the packed package and on nothing else. */
let consumer: string;
let guest: Guest;
let runtime: string;

beforeAll(async () => {
	const folder = await mkdtemp(join(tmpdir(), 'qsc-package-'));
	consumer = join(folder, 'consumer');
	runtime = join(folder, 'runtime');
	// Packed from a copy: others look at the clone meanwhile.
	const copy = join(folder, 'copy');
	await mkdir(copy);
	for (const name of [
		'src',
		'docs',
		'bin',
		'package.json',
		'tsconfig.json',
		'tsconfig.build.json',
		'CHANGELOG.md',
		'README.md',
		'LICENSE',
	]) {
		await cp(join(project, name), join(copy, name), {recursive: true});
	}
	await symlink(join(project, 'node_modules'), join(copy, 'node_modules'));
	const tarball = (await output('npm', ['pack', '--silent', '--pack-destination', folder], copy))
		.trim()
		.split('\n')
		.at(-1)!;
	await mkdir(consumer);
	await writeFile(join(consumer, 'package.json'), JSON.stringify({name: 'consumer', private: true, type: 'module'}));
	await output('npm', ['install', '--silent', '--no-audit', '--no-fund', join(folder, tarball)], consumer);
	for (const name of await readdir(EXAMPLES)) await copyFile(join(EXAMPLES, name), join(consumer, name));
	guest = await startGuest({name: guestName('packed'), bytes: 24 << 20});
});

afterAll(async () => {
	await guest.kill();
	await rm(join(consumer, '..'), {recursive: true, force: true});
});

const env = (program: string, args: readonly string[]): Promise<Finished> =>
	outcome('env', [`QUIESCE_RUNTIME_DIR=${runtime}`, 'QUIESCE_CONFIG=', program, ...args], consumer);

test('the package has what it needs, and nothing of the tests', async () => {
	const installed = join(consumer, 'node_modules/quiesce');
	expect((await readdir(installed)).sort()).toEqual([
		'CHANGELOG.md',
		'LICENSE',
		'README.md',
		'bin',
		'dist',
		'docs',
		'package.json',
	]);
	expect(await readdir(join(installed, 'bin'))).toEqual(['quiesce.js']);
	const modules = (await readdir(join(consumer, 'node_modules'))).filter(name => !name.startsWith('.'));
	const {dependencies} = JSON.parse(await readFile(join(project, 'package.json'), 'utf8')) as {dependencies: object};
	expect(modules).toEqual(expect.arrayContaining(Object.keys(dependencies)));
	expect(modules).not.toContain('typescript');
});

test('its types are whole, for a project that checks all that it depends on', async () => {
	await mkdir(join(consumer, 'node_modules/@types'), {recursive: true});
	await symlink(join(project, 'node_modules/@types/node'), join(consumer, 'node_modules/@types/node'));
	await symlink(join(project, 'node_modules/undici-types'), join(consumer, 'node_modules/undici-types'));
	const compilerOptions = {
		...{
			strict: true,
			noEmit: true,
			module: 'nodenext',
			target: 'es2024',
			lib: ['es2024', 'esnext.disposable'],
			types: ['node'],
		},
		...{exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false},
	};
	await writeFile(join(consumer, 'tsconfig.json'), JSON.stringify({compilerOptions, include: ['*.ts']}));
	const checked = await outcome(process.execPath, [join(project, 'node_modules/typescript/bin/tsc'), '-p', consumer]);
	expect(checked).toMatchObject({code: 0, stdout: ''});
});

describe.each(NODES)('with Node %s', version => {
	let program: string;

	beforeAll(async () => {
		program = await node(version);
	});

	test('the program runs, from anywhere', async () => {
		const quiesce = join(consumer, 'node_modules/.bin/quiesce');
		expect((await env(program, [quiesce, '--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
		const inspected = await env(program, [quiesce, 'inspect', ...socketsOf(guest), '--json']);
		expect(inspected.code, inspected.stderr).toBe(0);
		expect(JSON.parse(inspected.stdout)).toMatchObject({name: guest.name});
		const taken = await env(program, [quiesce, ...backupArgs(guest, await emptyFolder(), '--quiesce', 'require')]);
		expect(taken.code, taken.stderr).toBe(0);
		expect((await env(program, [quiesce, 'hooks', 'show', 'mysql'])).stdout).toContain('BACKUP STAGE');
	});

	test('each entry point can be imported without TypeScript', async () => {
		const script = `
for (const entry of ['quiesce', 'quiesce/qmp', 'quiesce/guest-agent', 'quiesce/nbd', 'quiesce/vma']) {
	const names = Object.keys(await import(entry));
	if (names.length === 0) throw new Error(entry + ' is empty');
}`;
		await writeFile(join(consumer, 'entries.mjs'), script);
		expect(await env(program, ['entries.mjs'])).toMatchObject({code: 0, stderr: ''});
	});

	// The others have imported all that these need.
	if (version !== NODES[0] && !isThorough) return;

	test('the example follows a job', async () => {
		const id = `slow-${version}`;
		await onMonitor(guest, async qmp => {
			await qmp.executeAny('blockdev-add', {'driver': 'null-co', 'node-name': id, 'size': 24 << 20});
			const job = {'job-id': id, 'device': 'disk-vda', 'target': id, 'sync': 'full', 'speed': 1 << 16};
			await qmp.executeAny('blockdev-backup', job);
		});
		let isSeen = false;
		const {lines, ended} = await linesOf(program, ['follow-a-job.ts', guest.qmpPath, id], async line => {
			if (isSeen || !line.startsWith(`${id} running `)) return;
			// Now it may end.
			isSeen = true;
			await onMonitor(guest, qmp => qmp.executeAny('block-job-set-speed', {device: id, speed: 0}));
		});
		expect(ended).toEqual([0, null]);
		expect(lines.at(-1)).toBe(`${id}: done`);
		await onMonitor(guest, qmp => qmp.executeAny('blockdev-del', {'node-name': id}));
	});

	test('the example copies two disks at one instant', async () => {
		const copies = await emptyFolder();
		const targets = ['vda', 'vdb'].map(disk => `${disk}=${join(copies, disk)}`);
		for (const disk of ['vda', 'vdb']) await output('truncate', ['--size', String(24 << 20), join(copies, disk)]);
		const copied = await env(program, ['two-disk-transaction.ts', guest.qmpPath, guest.agentPath, ...targets]);
		expect(copied.code, copied.stderr).toBe(0);
		expect(copied.stdout).toMatch(/^quiesced, at 20/m);
		const stamps = await Promise.all(
			['vda', 'vdb'].map(disk => output('debugfs', ['-R', 'cat stamp', join(copies, disk)])),
		);
		expect(Number(stamps[0])).toBeGreaterThan(0);
		expect(stamps[1]).toBe(stamps[0]);
	});

	test('the example freezes around a program', async () => {
		const frozen = await env(program, ['freeze-around.ts', guest.agentPath, 'sh', '-c', 'echo within; exit 3']);
		expect(frozen.code, frozen.stderr).toBe(3);
		expect(frozen.stdout).toMatch(/^within\n2 file systems were frozen for [\d.]+ ms\n$/);
	});

	test('the example hears the events of all VMs of a folder', async () => {
		const folder = await emptyFolder();
		await symlink(guest.qmpPath, join(folder, 'one.qmp'));
		const {lines, ended} = await linesOf(program, ['events-of-many.ts', folder], async (line, child) => {
			if (line.startsWith('one.qmp RESUME')) child.kill('SIGTERM');
			if (line !== 'one.qmp is listened to') return;
			await onMonitor(guest, async qmp => {
				await qmp.execute('stop');
				await qmp.execute('cont');
			});
		});
		expect(lines.filter(line => /STOP|RESUME/.test(line))).toEqual(['one.qmp STOP {}', 'one.qmp RESUME {}']);
		expect(ended).toEqual([0, null]);
	});
});

/** Runs a program to its end. Each line that it prints is waited for by `onLine` before the next. */
async function linesOf(
	program: string,
	args: readonly string[],
	onLine: (line: string, child: ChildProcess) => Promise<void>,
): Promise<{lines: string[]; ended: unknown[]}> {
	const child = spawn(program, args, {cwd: consumer, stdio: ['ignore', 'pipe', 'inherit']});
	onTestFinished(() => {
		child.kill('SIGKILL');
	});
	const ended = once(child, 'exit');
	const lines: string[] = [];
	for await (const line of createInterface(child.stdout)) {
		lines.push(line);
		await onLine(line, child);
	}
	return {lines, ended: await ended};
}

async function emptyFolder(): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), 'qsc-empty-'));
	onTestFinished(() => rm(folder, {recursive: true, force: true}));
	await chmod(folder, 0o755);
	return folder;
}
