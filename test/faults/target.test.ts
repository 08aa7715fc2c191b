import {chmod, chown, cp, mkdir, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {afterAll, beforeAll, expect, onTestFinished, test} from 'vitest';
import {pointId} from '../../src/repository/point-id.ts';
import {daemonsLeft, lastOf, runQuiesce, startQuiesce} from '../cli/run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectOneInstant,
	expectThawed,
	type Folder,
	guestName,
	leftInside,
	newRepository,
	onMonitor,
	partialsIn,
	pointsIn,
	restoreRaw,
	takePoint,
	temporaryFolder,
} from '../cli/scene.ts';
import {output} from '../guest/command.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {withoutPrivilege} from '../support/without-privilege.ts';

const RAW_BYTES = 32 << 20;

let folder: Folder;
let guest: Guest;

beforeAll(async () => {
	folder = await temporaryFolder();
	guest = await startGuest({
		name: guestName('target'),
		bytes: 24 << 20,
		fillBytes: 2 << 20,
		raw: 'writing',
		rawRate: 1000,
		rawBytes: RAW_BYTES,
	});
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

async function backup(repository: string, ...more: string[]) {
	const ended = await runQuiesce(backupArgs(guest, repository, '--json', ...more));
	return {...ended, error: lastOf(ended)};
}

async function expectUnharmed(): Promise<void> {
	await expectThawed(guest, 2_000);
	const before = await guest.rawStats();
	expect(before.errors).toBe(0);
	await expect.poll(async () => (await guest.rawStats()).count, {timeout: 5_000}).toBeGreaterThan(before.count);
	expect((await onMonitor(guest, qmp => qmp.execute('query-status'))).status).toBe('running');
}

test('a repository that is not there, or is something else, is refused and left alone', async () => {
	expect(await backup(join(folder.path, 'missing'))).toMatchObject({code: 10, error: {code: 'NO_REPOSITORY'}});
	const other = folder.new('other');
	await mkdir(other);
	await writeFile(join(other, 'photo.jpg'), 'not ours');
	expect(await backup(other)).toMatchObject({code: 10, error: {code: 'NO_REPOSITORY'}});
	expect(await output('ls', ['-A', other])).toBe('photo.jpg\n');
	expect(await leftInside(guest)).toEqual([]);
	expect(await daemonsLeft()).toEqual([]);
});

test('a repository that may not be written is named', async () => {
	const repository = await newRepository(folder);
	await chown(repository, 65534, 65534);
	await chmod(repository, 0o555);
	const ended = await runQuiesce(backupArgs(guest, repository, '--json'), {under: withoutPrivilege});
	expect(ended.code).toBe(1);
	expect(lastOf(ended)).toMatchObject({code: 'FAILED', message: expect.stringContaining(repository) as string});
	expect(lastOf(ended)['message']).toMatch(/permission denied|EACCES/i);
	expect(await leftInside(guest)).toEqual([]);
});

test('a disk that the VM lacks is refused, with those that it has', async () => {
	const repository = await newRepository(folder);
	const {code, error} = await backup(repository, '--disk', 'sdz');
	expect(code).toBe(2);
	expect(error).toMatchObject({code: 'USAGE', hint: 'Its disks are: vda, vdb, vdc, vdd.'});
	await expectNothingLeft(guest, repository);
});

test.each(['daemon', 'inline'])(
	'a repository that fills up in mid-copy ends the copy (%s), and the guest goes on',
	async sink => {
		// By then the raw disks are full of what cannot be compressed.
		await expect
			.poll(async () => (await guest.rawStats()).count, {timeout: 30_000, interval: 200})
			.toBeGreaterThan((2 * RAW_BYTES) / 4096);
		const mount = folder.new('small');
		await mkdir(mount);
		await output('mount', ['-t', 'tmpfs', '-o', 'size=44M,mode=0700', 'tmpfs', mount]);
		onTestFinished(async () => {
			await output('umount', ['-l', mount]);
		});
		const repository = join(mount, 'repository');
		await mkdir(repository);
		const {code, error} = await backup(repository, '--sink', sink, '--speed', '16M');
		expect(code).toBe(1);
		expect(error).toMatchObject({
			code: 'FAILED',
			message: expect.stringContaining(`no space is left in ${repository}`) as string,
		});
		await expectUnharmed();
		await expectNothingLeft(guest, repository);
		expect(await pointsIn(repository, guest.name)).toEqual([]);
	},
);

test('a point of the same second gets a name of its own', async () => {
	const repository = await newRepository(folder);
	const {folder: first, manifest} = await takePoint(backupArgs(guest, repository, '--disk', 'vdb'));
	const now = Date.now();
	const taken = Array.from({length: 30}, (_, second) => pointId(new Date(now + second * 1000), 1));
	await Promise.all(
		taken.filter(id => id !== manifest.id).map(id => cp(first, join(first, '..', id), {recursive: true, force: false})),
	);
	const {manifest: second} = await takePoint(backupArgs(guest, repository, '--disk', 'vdb'));
	expect(taken.some(id => second.id.startsWith(id) && second.id !== id)).toBe(true);
	expect(await pointsIn(repository, guest.name)).toContain(manifest.id);
	expect(await pointsIn(repository, guest.name)).toContain(second.id);
	await rm(repository, {recursive: true});
});

test('two backups of one VM at a time: the second is told who is at work, and the first one is right', async () => {
	const repository = await newRepository(folder);
	const first = startQuiesce(backupArgs(guest, repository, '--json', '--speed', '16M'));
	await first.says(/"message_type":"progress"/);
	const ended = await runQuiesce([
		...['backup', '--qmp', guest.qmp2Path, '--quiesce', 'never', '-r', repository, '--json'],
	]);
	expect(ended.code).toBe(11);
	expect(lastOf(ended)).toMatchObject({
		code: 'LOCKED',
		message: expect.stringContaining(`process ${first.pid}`) as string,
	});
	const {code, stdout} = await first.ended;
	expect(code).toBe(0);
	const {manifest, folder: at} = lastOf({stdout}) as unknown as {manifest: {id: string; vm: string}; folder: string};
	expect(await pointsIn(repository, guest.name)).toEqual([manifest.id]);
	const point = {manifest: manifest as never, folder: at, ended: await first.ended, recovered: []};
	await expectOneInstant(await restoreRaw(point, repository, folder.new('restored')));
});

test('a storage daemon that dies in mid-copy ends the copy, and leaves nothing', async () => {
	const repository = await newRepository(folder);
	const run = startQuiesce(backupArgs(guest, repository, '--json', '--speed', '256K', '--disk', 'vdc'));
	await run.says(/"message_type":"progress"/);
	const [daemon] = await daemonsLeft();
	process.kill(daemon!, 'SIGKILL');
	const ended = await run.ended;
	expect(ended.code).toBe(22);
	expect(lastOf(ended)).toMatchObject({code: 'JOB_FAILED'});
	await expectNothingLeft(guest, repository);
});

test('a QEMU that is killed in mid-copy ends the run within 2 s, and no point appears', async () => {
	const repository = await newRepository(folder);
	const run = startQuiesce(backupArgs(guest, repository, '--json', '--speed', '256K'));
	await run.says(/"message_type":"progress"/);
	await guest.end();
	const killed = performance.now();
	const ended = await run.ended;
	expect(performance.now() - killed).toBeLessThan(2_000);
	expect(ended.code).toBe(23);
	expect(lastOf(ended)).toMatchObject({code: 'VM_LOST', exit_code: 23});
	expect(await pointsIn(repository, guest.name)).toEqual([]);
	expect(await partialsIn(repository, guest.name)).toEqual([]);
	expect(await daemonsLeft()).toEqual([]);
});
