import {afterAll, beforeAll, expect, test} from 'vitest';
import {lastOf, startQuiesce} from '../cli/run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectThawed,
	type Folder,
	guestName,
	leftInside,
	newRepository,
	onMonitor,
	pointsIn,
	takePoint,
	temporaryFolder,
} from '../cli/scene.ts';
import {blankImage} from '../guest/disks.ts';
import {type Guest, startGuest} from '../guest/guest.ts';

/** A copy that goes on until the test has done what it wants. */
const SLOWLY = ['--speed', '256K'];

let folder: Folder;
let guest: Guest;

beforeAll(async () => {
	folder = await temporaryFolder();
	guest = await startGuest({
		name: guestName('signals'),
		bytes: 24 << 20,
		fillBytes: 4 << 20,
		raw: 'writing',
		rawRate: 200,
	});
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

async function copying(repository: string, ...more: string[]) {
	const run = startQuiesce(backupArgs(guest, repository, '--json', ...SLOWLY, ...more));
	await run.says(/"message_type":"progress"/);
	return run;
}

test.each([
	['SIGINT', 130],
	['SIGTERM', 143],
	['SIGHUP', 129],
] as const)('%s in mid-copy undoes everything and exits with %i', async (signal, code) => {
	const repository = await newRepository(folder);
	const run = await copying(repository);
	expect(await leftInside(guest)).not.toEqual([]);
	run.kill(signal);
	const ended = await run.ended;
	expect(ended).toMatchObject({code, signal: null});
	expect(lastOf(ended)).toMatchObject({message_type: 'exit_error', code: 'CANCELLED', exit_code: code});
	expect(ended.stderr).toContain('cancelled: undoing what was begun');
	await expectNothingLeft(guest, repository);
	await expectThawed(guest, 2_000);
	expect(await pointsIn(repository, guest.name)).toEqual([]);
	expect(await guest.rawStats()).toMatchObject({errors: 0});
});

test('Ctrl-C while the guest is being frozen thaws it', async () => {
	const repository = await newRepository(folder);
	await guest.read('echo slow:2 >/run/hook');
	try {
		const run = startQuiesce(backupArgs(guest, repository, '--log', 'trace'));
		await run.says(/guest-fsfreeze-freeze\\"\}/);
		run.kill('SIGINT');
		expect(await run.ended).toMatchObject({code: 130});
	} finally {
		await guest.read('echo ok >/run/hook');
	}
	await expectThawed(guest, 2_000);
	await expectNothingLeft(guest, repository);
});

test('a second Ctrl-C ends it at once, and the next backup undoes what is left', async () => {
	const repository = await newRepository(folder);
	const run = await copying(repository, '--sink', 'inline');
	run.kill('SIGINT');
	await run.says(/cancelled/);
	run.kill('SIGINT');
	const ended = await run.ended;
	expect(ended.code).toBe(130);
	await expectThawed(guest, 2_000);
	await takePoint(backupArgs(guest, repository));
	await expectNothingLeft(guest, repository);
});

test("another program's job may run, fail and complete meanwhile: it is neither waited for nor touched", async () => {
	const repository = await newRepository(folder);
	const [failing, passing] = [await blankImage(folder.new('other'), 'raw', 1 << 20), folder.new('whole')];
	const run = await copying(repository, '--disk', 'vda', '--disk', 'vdb');
	await onMonitor(guest, async qmp => {
		await blankImage(passing, 'raw', 16 << 20);
		const add = (name: string, filename: string) =>
			qmp.execute('blockdev-add', {'driver': 'raw', 'node-name': name, 'file': {driver: 'file', filename}});
		const job = {
			'device': 'disk-vdc',
			'sync': 'full',
			'auto-dismiss': false,
			'auto-finalize': true,
			'on-source-error': 'report',
			'on-target-error': 'report',
		} as const;
		const start = (id: string, target: string) =>
			qmp.execute('transaction', {
				actions: [{type: 'blockdev-backup', data: {...job, 'job-id': id, 'filter-node-name': `${id}-filter`, target}}],
			});
		await add('other-short', failing.path);
		await add('other-whole', passing);
		// Of another size, so that it is refused; and one that completes.
		await expect(start('other-1', 'other-short')).rejects.toThrow();
		await start('other-2', 'other-whole');
		await expect
			.poll(async () => (await qmp.execute('query-jobs')).find(({id}) => id === 'other-2')?.status, {timeout: 20_000})
			.toBe('concluded');
	});
	run.kill('SIGINT');
	expect(await run.ended).toMatchObject({code: 130});
	const point = await takePoint(backupArgs(guest, repository));
	expect(point.recovered).toEqual([]);
	await expectNothingLeft(guest, repository);
	await onMonitor(guest, async qmp => {
		expect((await qmp.execute('query-jobs')).map(({id}) => id)).toEqual(['other-2']);
		await qmp.execute('job-dismiss', {id: 'other-2'});
		await qmp.execute('blockdev-del', {'node-name': 'other-short'});
		await qmp.execute('blockdev-del', {'node-name': 'other-whole'});
	});
});
