import {copyFile, mkdir, mkdtemp, readFile, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {performance} from 'node:perf_hooks';
import {setTimeout} from 'node:timers/promises';
import {QmpConnection} from '../../src/qmp/connection.ts';
import type {PointManifest} from '../../src/repository/manifest.ts';
import {output} from '../../test/guest/command.ts';
import {type Guest, startGuest} from '../../test/guest/guest.ts';
import {explainWrites} from '../../test/guest/oracle.ts';
import {type Message, type RunningProgram, runProgram, startProgram} from './program.ts';
import {parseSamples, type Sample, type Span, within} from './samples.ts';
import {mountStallingFolder} from './stalling-folder.ts';

export type Method = 'none' | 'fleece' | 'push';

export interface Settings {
	/** Below it a folder is made for all that is needed. */
	readonly folder: string;
	readonly writesPerSecond: number;
	readonly stallSeconds: number;
}

export interface Series {
	readonly method: Method;
	readonly qemu: string;
	/** What was measured, in seconds from the cut. */
	readonly window: Span;
	/** When the target took nothing, as `window`. */
	readonly stall: Span;
	/** The writes which began in the window. */
	readonly samples: readonly Sample[];
	/** Writes that failed in the guest. */
	readonly errors: number;
	/** What stood still at the cut, and for how long at the most; null without a point. */
	readonly standstill: Standstill | null;
	/** What became of the point; null without a backup. */
	readonly point: Verdict | null;
}

interface Verdict {
	/** Whether it shows one instant of both disks, to the byte. */
	readonly right: boolean;
	readonly words: string;
}

type Standstill = NonNullable<PointManifest['standstill']>;

const DISK_BYTES = 256 << 20;
const LEAD_SECONDS = 5;
const STALL_AFTER_SECONDS = 2;
/** From the end of the stall. */
const TAIL_SECONDS = 13;

/** Boots a guest, has it write, and stalls the target of a backup of it. Without a method the same happens but for the backup. */
export async function measure(method: Method, settings: Settings, signal: AbortSignal): Promise<Series> {
	await using cleanup = new AsyncDisposableStack();
	const folder = await mkdtemp(join(settings.folder, 'quiesce-latency-'));
	cleanup.defer(() => rm(folder, {recursive: true, force: true}));
	const target = cleanup.use(await mountStallingFolder(folder, 4 * DISK_BYTES));
	const scene = await prepare(folder, target.path);
	const guest = cleanup.use(await startWriting(method, scene, settings));
	const qemu = await versionOf(guest);

	await setTimeout(LEAD_SECONDS * 1e3, undefined, {signal});
	const backup = method === 'none' ? undefined : cleanup.use(startBackup(method, guest, scene));
	const cut = (await backup?.said('cut')) ?? performance.now();
	const zero = await guestSecondsAt(guest, cut);
	await setTimeout(STALL_AFTER_SECONDS * 1e3 - (performance.now() - cut), undefined, {signal});
	const stalled = await target.stall(settings.stallSeconds * 1e3, signal);
	await setTimeout(TAIL_SECONDS * 1e3, undefined, {signal});
	const last = await backup?.ended;

	const {errors} = await guest.rawStop();
	const samples = parseSamples(await guest.read('writer raw-samples /run/raw.state', 60_000), zero);
	await guest.kill();
	const stall = {from: (stalled.from - cut) / 1e3, to: (stalled.to - cut) / 1e3};
	const window = {from: -LEAD_SECONDS, to: STALL_AFTER_SECONDS + settings.stallSeconds + TAIL_SECONDS};
	return {
		...{method, qemu, window, stall, errors},
		samples: within(samples, window),
		standstill: last ? standstillOf(last) : null,
		point: last ? await verdict(last, scene) : null,
	};
}

interface Scene {
	readonly folder: string;
	readonly repository: string;
	readonly runtimeDir: string;
	/** Of both raw disks, before all writes. */
	readonly initial: string;
	readonly disks: {readonly vdc: string; readonly vdd: string};
}

async function prepare(folder: string, target: string): Promise<Scene> {
	const path = (name: string): string => join(folder, name);
	const scene = {
		folder,
		repository: join(target, 'repository'),
		runtimeDir: path('run'),
		initial: path('initial.raw'),
		disks: {vdc: path('vdc.raw'), vdd: path('vdd.raw')},
	};
	await mkdir(scene.repository);
	await output('dd', ['if=/dev/urandom', `of=${scene.initial}`, 'bs=1M', `count=${DISK_BYTES >> 20}`]);
	for (const disk of Object.values(scene.disks)) await copyFile(scene.initial, disk);
	// Or the kernel writes all that back while we measure.
	await output('sync', ['-f', folder]);
	return scene;
}

function startWriting(method: Method, {disks}: Scene, {writesPerSecond}: Settings): Promise<Guest> {
	return startGuest({
		name: `latency-${method}-${process.pid}`,
		stamps: 'none',
		bytes: 24 << 20,
		raw: 'writing',
		rawRate: writesPerSecond,
		images: {vdc: {path: disks.vdc, format: 'raw'}, vdd: {path: disks.vdd, format: 'raw'}},
	});
}

async function versionOf(guest: Guest): Promise<string> {
	const qmp = await QmpConnection.open({unix: guest.qmp2Path});
	const {major, minor, micro} = qmp.version.qemu;
	await qmp.close();
	return `${major}.${minor}.${micro}`;
}

/** So slow that the copy outlasts the stall, and so patient that only the stall's end ends it. */
function startBackup(method: Method, guest: Guest, {repository, runtimeDir}: Scene): RunningProgram {
	return startProgram(
		[
			...['backup', '--qmp', guest.qmpPath, '--agent', guest.agentPath, '-r', repository, '--method', method],
			...['--compress', 'none', '--speed', '20M', '--target-timeout', '60s'],
		],
		runtimeDir,
	);
}

/** What the guest's clock showed at that time of ours. */
async function guestSecondsAt(guest: Guest, time: number): Promise<number> {
	const asked = performance.now();
	const uptime = Number((await guest.read('cat /proc/uptime')).split(' ')[0]);
	const between = (asked + performance.now()) / 2;
	return uptime - (between - time) / 1e3;
}

function standstillOf(last: Message): Standstill | null {
	const {manifest} = last as Message & {manifest?: Pick<PointManifest, 'standstill'>};
	return manifest?.standstill ?? null;
}

/** Restores the point, and has every byte of the raw disks explained by the guest's writes. */
async function verdict(last: Message, {folder, repository, runtimeDir, initial}: Scene): Promise<Verdict> {
	if (last.message_type !== 'summary') return {right: false, words: `failed: ${String(last['message'])}`};
	const {vm, id} = last['manifest'] as {vm: string; id: string};
	const args = ['restore', `${vm}@${id}`, '-r', repository, '--to', join(folder, 'restored'), '--format', 'raw'];
	const {disks} = (await runProgram(args, runtimeDir)) as Message & {disks: readonly {path: string}[]};
	const before = await readFile(initial);
	const restored = disks.slice(-2).map(disk => disk.path);
	const writes = await explainWrites(restored, [before, before]);
	return writes.sound
		? {right: true, words: `right: the first ${writes.writes} writes`}
		: {right: false, words: `wrong: not the first ${writes.writes} writes, by ${writes.count} blocks`};
}
