import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFile, rm, truncate} from 'node:fs/promises';
import {join} from 'node:path';
import {afterAll, beforeAll, describe, expect, test} from 'vitest';
import {jsonLines, runQuiesce} from '../cli/run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectOneInstant,
	type Folder,
	guestName,
	newRepository,
	restoreRaw,
	takePoint,
	type TakenPoint,
	temporaryFolder,
} from '../cli/scene.ts';
import {output} from '../guest/command.ts';
import {connectControl} from '../guest/control.ts';
import type {Image} from '../guest/disks.ts';
import {type DiskName, type Guest, type GuestOptions, startGuest} from '../guest/guest.ts';
import {explainWrites, fsck, fsckAfterReplay, needsRecovery, readStamps} from '../guest/oracle.ts';
import {sampled} from '../support/thorough.ts';

/** So slow that the guest overwrites every block of its raw disks while they are being copied. */
const SLOWLY = ['--speed', '10M'];

let folder: Folder;
let repository: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
});

afterAll(() => folder[Symbol.asyncDispose]());

const start = (options: GuestOptions): Promise<Guest> =>
	startGuest({
		name: guestName('vm'),
		bytes: 24 << 20,
		fillBytes: 3 << 20,
		rawBytes: 8 << 20,
		raw: 'writing',
		rawRate: 400,
		...options,
	});

interface Observed {
	readonly point: TakenPoint;
	readonly before: {readonly a: number; readonly b: number; readonly writes: number};
	readonly after: {readonly a: number; readonly b: number; readonly writes: number};
}

/** Takes a point, and what the guest's writers had reached before and after. */
async function observe(guest: Guest, ...args: string[]): Promise<Observed> {
	const look = async () => ({...(await guest.stamps()), writes: (await guest.rawStats()).count});
	const before = await look();
	const point = await takePoint(backupArgs(guest, repository, ...SLOWLY, ...args));
	return {point, before, after: await look()};
}

/** Restores, and checks the raw disks byte by byte. Returns the files, and the write that they show last. */
async function restoreAndExplain({point, before, after}: Observed): Promise<string[]> {
	const disks = await restoreRaw(point, repository, folder.new('restored'));
	expect(disks).toHaveLength(4);
	const writes = await expectOneInstant(disks);
	expect(writes).toBeGreaterThanOrEqual(before.writes);
	// Most of what was copied had been overwritten by then, or the test would show little.
	expect(after.writes - writes).toBeGreaterThan(500);
	return disks;
}

async function expectQuiesced(observed: Observed): Promise<void> {
	const {point, before, after} = observed;
	expect(point.manifest).toMatchObject({consistency: 'quiesced', freeze: {fileSystems: 2}, warnings: []});
	const [a = '', b = ''] = await restoreAndExplain(observed);
	const stamps = await readStamps(a, b);
	expect(stamps.a).toBe(stamps.b);
	expect(stamps.a).toBeGreaterThanOrEqual(before.b);
	expect(stamps.a).toBeLessThanOrEqual(after.a);
	for (const disk of [a, b]) {
		expect(await needsRecovery(disk)).toBe(false);
		expect(await fsck(disk)).toMatchObject({clean: true});
	}
}

describe.each<[what: string, options: GuestOptions, runs: readonly (readonly string[])[]]>([
	[
		'raw images as -blockdev',
		{},
		[
			['--sink', 'daemon', '--compress', 'zstd'],
			['--sink', 'daemon', '--compress', 'none'],
			['--sink', 'inline', '--compress', 'zstd'],
			['--sink', 'inline', '--compress', 'none'],
		],
	],
	[
		'qcow2 images as -drive with ids, and I/O threads',
		{disks: 'drive', format: 'qcow2', iothreads: 2},
		[
			['--sink', 'daemon', '--compress', 'zstd'],
			['--sink', 'inline', '--compress', 'none'],
		],
	],
	['qcow2 images as -drive without ids', {disks: 'plain', format: 'qcow2'}, [['--sink', 'daemon']]],
])('with %s', (_what, options, runs) => {
	test('points of a writing guest are whole, of one instant, and quiesced', {timeout: 180_000}, async () => {
		await using guest = await start(options);
		const observed: Observed[] = [];
		for (const run of sampled(runs, Math.ceil(runs.length / 2)))
			observed.push(await observe(guest, '--quiesce', 'require', ...run));
		await expectNothingLeft(guest, repository);
		expect(await guest.rawStats()).toMatchObject({errors: 0});
		for (const one of observed) await expectQuiesced(one);
	});
});

test('without a freeze a point is what a power cut would have left', async () => {
	await using guest = await start({iothreads: 1});
	for (const sink of ['daemon', 'inline']) {
		const observed = await observe(guest, '--quiesce', 'never', '--sink', sink);
		expect(observed.point.manifest).toMatchObject({consistency: 'crash-consistent', freeze: null});
		const [a = '', b = ''] = await restoreAndExplain(observed);
		const stamps = await readStamps(a, b);
		expect(stamps.a - stamps.b).toBeOneOf([0, 1]);
		expect(stamps.b).toBeGreaterThanOrEqual(observed.before.b);
		for (const disk of [a, b]) {
			expect(await fsckAfterReplay(disk, `${disk}.replayed`)).toMatchObject({clean: true});
		}
	}
});

test('the time that the guest was held is printed, in the JSON, and in the point', async () => {
	await using guest = await start({raw: 'none', fillBytes: 0});
	const {manifest, ended} = await takePoint(backupArgs(guest, repository));
	const {heldSeconds = 0} = manifest.freeze ?? {};
	expect(heldSeconds).toBeGreaterThan(0);
	expect(heldSeconds).toBeLessThan(1);
	expect(jsonLines(ended).find(({message_type}) => message_type === 'cut')).toMatchObject({
		freeze: {file_systems: 2, held_seconds: heldSeconds},
	});
	const {stderr} = await runQuiesce(backupArgs(guest, repository));
	expect(stderr).toMatch(
		/^cut: quiesced; 2 file systems frozen \(freeze .* m?s, held [\d.]+ ms, thaw .* m?s\); the disks stood still for [\d.]+ m?s$/m,
	);
	const shown = await runQuiesce(['show', guest.name, '-r', repository]);
	expect(shown.stdout).toMatch(/^frozen +2 file systems; freeze .*, held [\d.]+ ms, thaw/m);
});

test('a point can be restored with sha256sum and qemu-img alone', async () => {
	await using guest = await start({format: 'qcow2'});
	const point = await takePoint(backupArgs(guest, repository));
	await guest.kill();
	const restored = await restoreRaw(point, repository, folder.new('restored'));
	expect(await output('sha256sum', ['-c', '--strict', 'SHA256SUMS'], point.folder)).not.toContain('FAILED');
	for (const [index, {file}] of point.manifest.disks.entries()) {
		const byHand = folder.new('by-hand');
		await output('qemu-img', ['convert', '-O', 'raw', file, byHand], point.folder);
		expect((await readFile(byHand)).equals(await readFile(restored[index] ?? ''))).toBe(true);
	}
});

describe('a restored VM', () => {
	test('boots, and its writers go on where the point was cut', async () => {
		await using guest = await start({format: 'qcow2'});
		const point = await takePoint(backupArgs(guest, repository, ...SLOWLY));
		await guest.kill();
		const to = folder.new('restored');
		const {code} = await runQuiesce(['restore', guest.name, '-r', repository, '--to', to]);
		expect(code).toBe(0);
		const names: readonly DiskName[] = ['vda', 'vdb', 'vdc', 'vdd'];
		const images = names.map((name): [DiskName, Image] => [name, {path: join(to, `${name}.qcow2`), format: 'qcow2'}]);
		const raws = await restoreRaw(point, repository, folder.new('restored'));
		const stamps = await readStamps(raws[0] ?? '', raws[1] ?? '');
		const writes = await expectOneInstant(raws);
		await using again = await start({images: Object.fromEntries(images), rawFrom: writes});
		const {a, b} = await again.stamps();
		expect(Math.min(a, b)).toBeGreaterThanOrEqual(stamps.a);
		const {count} = await again.rawStop();
		expect(count).toBeGreaterThan(writes);
		await again.end('SIGTERM');
		const disks = await Promise.all(
			['vdc', 'vdd'].map(async name => {
				const raw = folder.new(name);
				await output('qemu-img', ['convert', '-O', 'raw', join(to, `${name}.qcow2`), raw]);
				return raw;
			}),
		);
		expect(await explainWrites(disks)).toEqual({sound: true, writes: count});
	});

	test('is started by the very command line that restore prints', async () => {
		await using guest = await start({folder: 'keep', disks: 'drive', raw: 'none'});
		const {a: before} = await guest.stamps();
		await takePoint(backupArgs(guest, repository));
		await guest.end();
		await truncate(guest.serialPath);
		try {
			const to = folder.new('restored');
			const restored = await runQuiesce(['restore', guest.name, '-r', repository, '--to', to]);
			expect(restored.code).toBe(0);
			const machine = spawn('setpriv', ['--pdeathsig', 'KILL', 'sh', '-c', `exec ${restored.stdout}`]);
			try {
				const control = await ready(guest);
				const {stdout} = await control.run('cat /mnt/a/stamp');
				control.close();
				expect(Number(stdout)).toBeGreaterThanOrEqual(before);
			} finally {
				machine.kill('SIGKILL');
				await once(machine, 'exit');
			}
		} finally {
			await rm(guest.dir, {recursive: true});
		}
	});
});

/** The machine has the console and the sockets of the one that it was. */
async function ready({serialPath, dir}: Guest) {
	await expect.poll(() => readFile(serialPath, 'utf8'), {timeout: 30_000}).toContain('quiesce-guest: ready');
	return connectControl(join(dir, 'control.sock'));
}
