import {existsSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import type {SnapshotManifest} from '../../src/snapshots/manifest.ts';
import {type Ended, runQuiesce} from '../cli/run-quiesce.ts';
import {expectOneInstant, type Folder, guestName, onMonitor, socketsOf, temporaryFolder} from '../cli/scene.ts';
import {output} from '../guest/command.ts';
import {type Control, connectControl} from '../guest/control.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {explainWrites, fsck, fsckAfterReplay, needsRecovery, readStamps} from '../guest/oracle.ts';
import {rawStatsIn, type RawStats} from '../guest/serial.ts';
import {processesNaming} from '../jobs/bare-vm.ts';

/** So slow that the writer does not come to a block a second time before the test has seen the first. */
const RATE = 150;

/** What runs scripts in the guest, of which each QEMU has one. */
type Shell = Pick<Control, 'run'>;

interface Reached {
	readonly a: number;
	readonly b: number;
	readonly writes: number;
}

test(
	'a writing guest lives through snapshots, commits, streams and a revert, and nothing of what it wrote is lost',
	{timeout: 300_000},
	async () => {
		await using folder = await temporaryFolder();
		await using guest = await startGuest({
			name: guestName('chains'),
			format: 'qcow2',
			bytes: 24 << 20,
			fillBytes: 2 << 20,
			rawBytes: 16 << 20,
			raw: 'writing',
			rawRate: RATE,
		});
		const first = [...guest.images.values()].map(({path}) => path);

		const before = await snapshotOf(guest, guest, 'first', '--quiesce', 'require');
		await expectQuiesced(folder, before);
		await writesMore(guest, 100);
		await succeed('commit', ...socketsOf(guest));
		expect(overlaysOf(before.manifest).filter(file => existsSync(file))).toEqual([]);
		await expectAllThere(folder, guest, first);

		const inside = await snapshotOf(guest, guest, 'inside', '--quiesce', 'require', '--internal');
		await writesMore(guest, 100);
		await expectQuiesced(folder, inside);
		await succeed('snapshot', 'delete', ...socketsOf(guest), 'inside');
		for (const file of first) expect(await output('qemu-img', ['snapshot', '-U', '-l', file])).toBe('');

		const second = await snapshotOf(guest, guest, 'second', '--quiesce', 'require');
		await expectQuiesced(folder, second);
		await writesMore(guest, 100);
		await succeed('stream', ...socketsOf(guest), '--delete');
		expect(first.filter(file => existsSync(file))).toEqual([]);
		await expectAllThere(folder, guest, overlaysOf(second.manifest));

		await read(guest, 'touch /run/before');
		const bootId = await read(guest, 'cat /proc/sys/kernel/random/boot_id');
		const running = await snapshotOf(guest, guest, 'running', '--memory');
		await read(guest, 'touch /run/after');
		await writesMore(guest, 2 * RATE, running.after);
		await guest.end();

		const writes = await expectOneInstant(await basesOf(folder, running.manifest));
		expect(writes).toBeLessThanOrEqual(running.after.writes + 1);
		// The QEMU that it starts goes on by itself.
		onTestFinished(() => {
			for (const pid of processesNaming(guest.dir)) process.kill(pid, 'SIGKILL');
		});
		const reverted = await succeed('revert', `${guest.name}@running`, '--folder', guest.dir, '--start');
		const overlays = revertedOverlays(reverted);
		const again = await connectControl(join(guest.dir, 'control.sock'));
		onTestFinished(() => {
			again.close();
		});
		expect(await read(again, 'cat /proc/sys/kernel/random/boot_id; ls /run/before /run/after 2>/dev/null || :')).toBe(
			`${bootId}\n/run/before`,
		);
		await writesMore(again, 100, {...running.before, writes});
		// Its agent answers, too.
		const last = await snapshotOf(guest, again, 'last', '--quiesce', 'require');
		await expectQuiesced(folder, last);
		await succeed('commit', ...socketsOf(guest));

		const {count, errors} = statsIn(await read(again, 'writer raw-stop /run/raw.state'));
		expect(errors).toBe(0);
		await quit(overlays[0]!);
		const disks = await rawCopies(folder, overlays);
		expect(await explainWrites(disks.slice(2))).toEqual({sound: true, writes: count});
		for (const disk of disks.slice(0, 2)) {
			expect(await fsckAfterReplay(disk, `${disk}.replayed`)).toMatchObject({clean: true});
		}
		for (const file of overlays) expect(await output('qemu-img', ['check', file])).toContain('No errors');
	},
);

interface TakenSnapshot {
	readonly manifest: SnapshotManifest;
	readonly before: Reached;
	readonly after: Reached;
}

async function snapshotOf(vm: Guest, shell: Shell, name: string, ...options: string[]): Promise<TakenSnapshot> {
	const before = await reached(shell);
	await succeed('snapshot', 'create', ...socketsOf(vm), name, ...options);
	const after = await reached(shell);
	const file = join(vm.dir, `${vm.name}.snapshots`, name, 'snapshot.json');
	return {manifest: JSON.parse(await readFile(file, 'utf8')) as SnapshotManifest, before, after};
}

/** That the snapshot is of one instant, at which the file systems were frozen. */
async function expectQuiesced(folder: Folder, {manifest, before, after}: TakenSnapshot): Promise<void> {
	expect(manifest).toMatchObject({consistency: 'quiesced', freeze: {fileSystems: 2}, warnings: []});
	const disks = await basesOf(folder, manifest);
	const writes = await expectOneInstant(disks);
	expect(writes).toBeGreaterThanOrEqual(before.writes);
	expect(writes).toBeLessThanOrEqual(after.writes + 1);
	const [a = '', b = ''] = disks;
	const stamps = await readStamps(a, b);
	expect(stamps.a).toBe(stamps.b);
	expect(stamps.a).toBeGreaterThanOrEqual(before.b);
	expect(stamps.a).toBeLessThanOrEqual(after.a);
	for (const disk of [a, b]) {
		expect(await needsRecovery(disk)).toBe(false);
		expect(await fsck(disk)).toMatchObject({clean: true});
	}
}

/** That images which the guest writes to have all that it has counted: they are looked at while it stands still. */
async function expectAllThere(folder: Folder, guest: Guest, images: readonly string[]): Promise<void> {
	const before = await reached(guest);
	await onMonitor(guest, qmp => qmp.execute('stop'));
	const disks = await rawCopies(folder, images);
	await onMonitor(guest, qmp => qmp.execute('cont'));
	const after = await reached(guest);
	const writes = await expectOneInstant(disks);
	expect(writes).toBeGreaterThanOrEqual(before.writes);
	expect(writes).toBeLessThanOrEqual(after.writes + 1);
	const [a = '', b = ''] = disks;
	const stamps = await readStamps(a, b);
	expect(stamps.a - stamps.b).toBeOneOf([0, 1]);
	for (const disk of [a, b]) expect(await fsckAfterReplay(disk, `${disk}.replayed`)).toMatchObject({clean: true});
}

/** Raw copies of what holds the disks of a snapshot. */
function basesOf(folder: Folder, {disks, kind, name}: SnapshotManifest): Promise<string[]> {
	const files = disks.map(({base}) => base.file);
	return rawCopies(folder, files, kind === 'internal' ? ['-l', `snapshot.name=${name}`] : []);
}

function rawCopies(folder: Folder, files: readonly string[], options: readonly string[] = []): Promise<string[]> {
	return Promise.all(
		files.map(async file => {
			const raw = folder.new('disk');
			await output('qemu-img', ['convert', '-U', '-f', 'qcow2', '-O', 'raw', ...options, file, raw]);
			return raw;
		}),
	);
}

function overlaysOf({disks}: SnapshotManifest): string[] {
	return disks.map(({overlay}) => overlay!.file);
}

function revertedOverlays({stdout}: Ended): string[] {
	const {disks} = JSON.parse(stdout.trim().split('\n').at(-1)!) as {disks: {overlay: string}[]};
	return disks.map(({overlay}) => overlay);
}

async function reached(shell: Shell): Promise<Reached> {
	const [a, b, stats = ''] = (
		await read(shell, 'cat /mnt/a/stamp /mnt/b/stamp; writer raw-stats /run/raw.state')
	).split('\n');
	return {a: Number(a), b: Number(b), writes: statsIn(stats).count};
}

/** Waits until all writers have gone on. */
async function writesMore(shell: Shell, writes: number, since?: Reached): Promise<void> {
	const from = since ?? (await reached(shell));
	const goesOn = async (): Promise<boolean> => {
		const now = await reached(shell);
		return now.writes >= from.writes + writes && now.a > from.a && now.b > from.b;
	};
	await expect.poll(goesOn, {timeout: 30_000, interval: 100}).toBe(true);
}

function statsIn(text: string): RawStats {
	const [stats] = rawStatsIn(text);
	if (!stats) throw new Error(`no counts: ${text}`);
	return stats;
}

async function read(shell: Shell, script: string): Promise<string> {
	const {code, stdout, stderr} = await shell.run(script);
	if (code !== 0) throw new Error(`in the guest: ${script}: exit code ${code}: ${stderr}`);
	return stdout.trim();
}

async function succeed(...args: string[]): Promise<Ended> {
	const ended = await runQuiesce([...args, '--json']);
	if (ended.code !== 0)
		throw new Error(`${args.join(' ')}: ${ended.code ?? ended.signal}\n${ended.stdout}\n${ended.stderr}`);
	return ended;
}

/** Ends a QEMU that is no child of ours. */
async function quit(image: string): Promise<void> {
	for (const pid of processesNaming(image)) process.kill(pid, 'SIGTERM');
	await expect.poll(() => processesNaming(image), {timeout: 20_000}).toEqual([]);
}
