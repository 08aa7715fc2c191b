import {mkdir, readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {afterAll, beforeAll, expect, test} from 'vitest';
import type {PointManifest} from '../../src/repository/manifest.ts';
import type {SnapshotManifest} from '../../src/snapshots/manifest.ts';
import {type Ended, lastOf, runQuiesce, startQuiesce} from '../cli/run-quiesce.ts';
import {
	expectNothingLeft,
	expectOneInstant,
	expectThawed,
	type Folder,
	guestName,
	isFrozen,
	newRepository,
	pointsIn,
	temporaryFolder,
} from '../cli/scene.ts';
import {output} from '../guest/command.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {needsRecovery, readStamps} from '../guest/oracle.ts';

let folder: Folder;
let repository: string;
let web: Guest;
let db: Guest;

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	const start = (name: string): Promise<Guest> =>
		startGuest({name: guestName(name), bytes: 24 << 20, rawBytes: 4 << 20, raw: 'writing', rawRate: 200});
	[web, db] = await Promise.all([start('web'), start('db')]);
}, 120_000);

afterAll(async () => {
	await Promise.all([web.kill(), db.kill()]);
	await folder[Symbol.asyncDispose]();
});

const members = (): string[] =>
	[web, db].map(guest => `${guest.name}=unix:${guest.qmpPath},agent=unix:${guest.agentPath}`);
const backupBoth = (...more: string[]): string[] => [
	...['backup', ...members(), '--group', 'shop', '-r', repository, '--quiesce', 'require', ...more],
];
const freezeBoth = (...more: string[]): string[] => ['freeze', ...members(), '--group', 'shop', ...more];

async function expectUndone(ended: Ended, before: readonly number[]): Promise<void> {
	expect(ended.code).not.toBe(0);
	expect(await counts()).toEqual(before);
}

/** How many points each has. */
async function counts(): Promise<number[]> {
	const found = await Promise.all([web, db].map(({name}) => pointsIn(repository, name)));
	return found.map(points => points.length);
}

/** Writes one number after another: to a file of the first guest, and once that is done to one of the second. */
function writeInTurn(): {readonly stop: () => Promise<number>} {
	const stopping = new AbortController();
	const writing = (async () => {
		let nth = 0;
		while (!stopping.signal.aborted) {
			nth++;
			for (const guest of [web, db])
				await guest.read(`printf %020d ${nth} >/mnt/a/turn.new && mv /mnt/a/turn.new /mnt/a/turn`);
		}
		return nth;
	})();
	return {
		stop: () => {
			stopping.abort();
			return writing;
		},
	};
}

test('two writing guests are frozen, then cut, then thawed, and what one had caused in the other is in no point alone', async () => {
	const transcript = folder.new('transcript');
	const writers = writeInTurn();
	const ended = await runQuiesce(backupBoth('--json', '--transcript', transcript));
	const written = await writers.stop();
	expect(ended).toMatchObject({code: 0});
	const {group, points} = lastOf(ended) as unknown as {
		group: {skew_seconds: number};
		points: {folder: string}[];
	};
	expect(group.skew_seconds).toBeLessThan(2);
	const turns = new Map<string, number>();
	for (const point of points) {
		const manifest = JSON.parse(await readFile(join(point.folder, 'point.json'), 'utf8')) as PointManifest;
		expect(manifest).toMatchObject({consistency: 'quiesced', freeze: {fileSystems: 2}, warnings: []});
		const disks = await restored(manifest);
		await expectOneInstant(disks);
		const [a = '', b = ''] = disks;
		const stamps = await readStamps(a, b);
		expect(stamps.a).toBe(stamps.b);
		expect(await needsRecovery(a)).toBe(false);
		turns.set(manifest.vm, Number(await output('debugfs', ['-R', 'cat /turn', a])));
	}
	const [first = 0, second = 0] = [turns.get(web.name), turns.get(db.name)];
	expect(first - second).toBeOneOf([0, 1]);
	expect(first).toBeLessThan(written);
	expectInStep(await readFile(transcript, 'utf8'));
	for (const guest of [web, db]) await expectNothingLeft(guest, repository);
	const listed = await runQuiesce(['list', '-r', repository]);
	expect(listed.stdout.match(/^ {2}of group shop: 2 VMs cut within [\d.]+ m?s$/gm)).toHaveLength(2);
});

/** Of each step the last one of all comes before the first one of the next. */
function expectInStep(transcript: string): void {
	const lines = transcript.split('\n');
	const at = (pattern: RegExp): number[] => lines.flatMap((line, index) => (pattern.test(line) ? [index] : []));
	const steps = [
		/ agent@\S+ -> .*"guest-fsfreeze-freeze"/,
		/ qmp@\S+ -> .*"blockdev-reopen"/,
		/ agent@\S+ -> .*"guest-fsfreeze-thaw"/,
	];
	const [freezes = [], cuts = [], thaws = []] = steps.map(at);
	expect([freezes.length, cuts.length >= 2, thaws.length]).toEqual([2, true, 2]);
	// The gates are turned once for the cut, and once more to put the devices back.
	const [lastFreeze, firstThaw] = [Math.max(...freezes), Math.min(...thaws)];
	expect(cuts.filter(cut => cut > lastFreeze && cut < firstThaw)).toHaveLength(2);
}

async function restored({vm, id}: PointManifest): Promise<string[]> {
	const to = folder.new('restored');
	await mkdir(to);
	const ended = await runQuiesce(['restore', `${vm}@${id}`, '-r', repository, '--to', to, '--format', 'raw', '--json']);
	return (lastOf(ended) as unknown as {disks: {path: string}[]}).disks.map(disk => disk.path);
}

test('a command runs once, with both frozen', async () => {
	const stop = folder.new('stop');
	const script = `echo begun; while [ ! -e ${stop} ]; do sleep 0.05; done; exit 7`;
	const run = startQuiesce(freezeBoth('--', 'sh', '-c', script));
	await run.says(/begun/);
	expect(await Promise.all([isFrozen(web), isFrozen(db)])).toEqual([true, true]);
	await writeFile(stop, '');
	const ended = await run.ended;
	expect(ended).toMatchObject({code: 7, stdout: 'begun\n'});
	expect(ended.stderr.match(/^\S+: thawed: 2 file systems had been frozen/gm)).toHaveLength(2);
	for (const guest of [web, db]) await expectThawed(guest, 2_000);
});

test('where one cannot be frozen none stays so: not for a command, not until a thaw, and not for a backup', async () => {
	const before = await counts();
	await db.read('echo fail >/run/hook');
	try {
		const command = await runQuiesce(freezeBoth('--', 'echo', 'ran'));
		expect(command).toMatchObject({code: 24, stdout: ''});
		expect(command.stderr).toContain(`quiesce: ${db.name}: the guest agent refused guest-fsfreeze-freeze`);
		expect(await runQuiesce(freezeBoth())).toMatchObject({code: 24});
		for (const guest of [web, db]) await expectThawed(guest, 2_000);
		await expectUndone(await runQuiesce(backupBoth()), before);
		for (const guest of [web, db]) await expectThawed(guest, 2_000);
		for (const guest of [web, db]) await expectNothingLeft(guest, repository);
	} finally {
		await db.read('echo ok >/run/hook');
	}
});

test('a guest does not stay frozen for another one whose freeze takes too long', async () => {
	const before = await counts();
	await db.read('echo slow:4 >/run/hook');
	try {
		const run = startQuiesce(backupBoth('--freeze-timeout', '1s'));
		const ended = await run.ended;
		await expectThawed(web, 2_000);
		await expectUndone(ended, before);
		expect(ended.stderr).toContain(`${db.name}: `);
	} finally {
		await db.read('echo ok >/run/hook');
	}
	for (const guest of [web, db]) await expectThawed(guest, 8_000);
	for (const guest of [web, db]) await expectNothingLeft(guest, repository);
});

// A disk may lie on the overlay after that, so nothing that counts nodes can follow.
test('snapshots of two writing guests are of one instant, and what one had caused in the other is in none alone', async () => {
	const writers = writeInTurn();
	const create = ['snapshot', 'create', ...members(), '--group', 'shop', '--name', 'one', '--quiesce', 'require'];
	const ended = await runQuiesce([...create, '--json']);
	await writers.stop();
	expect(ended).toMatchObject({code: 0});
	const {group, snapshots} = lastOf(ended) as unknown as {
		group: {skew_seconds: number};
		snapshots: {folder: string}[];
	};
	expect(group.skew_seconds).toBeLessThan(2);
	const turns = new Map<string, number>();
	for (const snapshot of snapshots) {
		const manifest = JSON.parse(await readFile(join(snapshot.folder, 'snapshot.json'), 'utf8')) as SnapshotManifest;
		expect(manifest).toMatchObject({consistency: 'quiesced', freeze: {fileSystems: 2}, warnings: []});
		const disks: string[] = [];
		for (const {base} of manifest.disks) {
			const raw = folder.new('base');
			await output('qemu-img', ['convert', '-U', '-f', base.format, '-O', 'raw', base.file, raw]);
			disks.push(raw);
		}
		await expectOneInstant(disks);
		turns.set(manifest.vm, Number(await output('debugfs', ['-R', 'cat /turn', disks[0] ?? ''])));
	}
	const [first = 0, second = 0] = [turns.get(web.name), turns.get(db.name)];
	expect(first - second).toBeOneOf([0, 1]);
	for (const {name, qmpPath} of [web, db]) {
		const listed = await runQuiesce(['snapshot', 'list', '--qmp', qmpPath]);
		expect(listed.stdout, name).toMatch(/^ {2}of group shop: 2 VMs cut within [\d.]+ m?s/m);
	}
	for (const {qmpPath} of [web, db]) {
		expect(await runQuiesce(['snapshot', 'delete', '--qmp', qmpPath, 'one'])).toMatchObject({code: 0});
	}
});

test.each(['the program', 'the QEMU of the other one'])(
	'where %s is killed while guests are frozen they are thawed',
	async what => {
		const before = await counts();
		await db.read('echo slow:2 >/run/hook');
		const run = startQuiesce(backupBoth());
		await expect.poll(() => isFrozen(web), {timeout: 20_000}).toBe(true);
		if (what === 'the program') {
			run.kill('SIGKILL');
			await run.ended;
			await expectThawed(web, 2_000 + SLACK_MS);
			// Its hook had two seconds to go.
			await expectThawed(db, 4_000 + SLACK_MS);
			await db.read('echo ok >/run/hook');
		} else {
			await db.end();
			await expectThawed(web, 2_000 + SLACK_MS);
			await expectUndone(await run.ended, before);
		}
		expect(await counts()).toEqual(before);
	},
);

/** What emulated guests on busy processors may lose. */
const SLACK_MS = 2_000;
