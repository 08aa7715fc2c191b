import {mkdir, mkdtemp, readdir, readFile, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'vitest';
import {QmpConnection} from '../../src/qmp/connection.ts';
import type {PointManifest} from '../../src/repository/manifest.ts';
import type {Guest} from '../guest/guest.ts';
import {explainWrites} from '../guest/oracle.ts';
import {daemonsLeft, type Ended, jsonLines, lastOf, runQuiesce, runtimeDir, type RunOptions} from './run-quiesce.ts';

let guests = 0;

/** VMs of one name on one host exclude each other, and test files run side by side. */
export const guestName = (what: string): string => `${what}-${process.pid}-${++guests}`;

export interface Folder extends AsyncDisposable {
	readonly path: string;
	/** A new path in it. */
	new: (stem: string) => string;
}

export async function temporaryFolder(): Promise<Folder> {
	const path = await mkdtemp(join(tmpdir(), 'quiesce-scene-'));
	let made = 0;
	return {
		path,
		new: stem => join(path, `${stem}-${++made}`),
		[Symbol.asyncDispose]: () => rm(path, {recursive: true, force: true}),
	};
}

export async function newRepository(folder: Folder): Promise<string> {
	const path = folder.new('repository');
	await mkdir(path, {mode: 0o700});
	return path;
}

export const socketsOf = ({qmpPath, agentPath}: Pick<Guest, 'qmpPath' | 'agentPath'>): string[] => [
	...['--qmp', qmpPath],
	...['--agent', agentPath],
];

export function backupArgs(guest: Guest, repository: string, ...more: string[]): string[] {
	return ['backup', ...socketsOf(guest), '-r', repository, ...more];
}

/** One operation on the second monitor, which nobody else uses. */
export async function onMonitor<Value>(guest: Guest, work: (qmp: QmpConnection) => Promise<Value>): Promise<Value> {
	const qmp = await QmpConnection.open({unix: guest.qmp2Path});
	try {
		return await work(qmp);
	} finally {
		await qmp.close();
	}
}

/** Every name of ours that is left inside QEMU. */
export function leftInside(guest: Guest): Promise<string[]> {
	return onMonitor(guest, async qmp => {
		const [jobs, nodes] = await Promise.all([
			qmp.execute('query-jobs'),
			qmp.execute('query-named-block-nodes', {flat: true}),
		]);
		const names = [...jobs.map(job => job.id), ...nodes.map(node => node['node-name'] ?? '')];
		return names.filter(name => name.startsWith('qsc-'));
	});
}

/** Hidden folders of a VM in the repository: points that never became whole. */
export async function partialsIn(repository: string, vm: string): Promise<string[]> {
	const names = await readdir(join(repository, 'vms', vm)).catch(() => []);
	return names.filter(name => name.startsWith('.'));
}

export async function pointsIn(repository: string, vm: string): Promise<string[]> {
	const names = await readdir(join(repository, 'vms', vm)).catch(() => []);
	return names.filter(name => !name.startsWith('.')).sort();
}

/** That nothing of any run is left: not in QEMU, not on the host, not in the repository. */
export async function expectNothingLeft(guest: Guest, repository: string): Promise<void> {
	expect(await leftInside(guest)).toEqual([]);
	expect(await daemonsLeft()).toEqual([]);
	expect(await partialsIn(repository, guest.name)).toEqual([]);
	// The log of lasting freezes is meant to stay.
	expect((await readdir(runtimeDir).catch(() => [])).filter(name => name !== 'guard.log')).toEqual([]);
}

/** Writes to both file systems of the guest, which waits while they are frozen. */
export async function expectThawed(guest: Guest, withinMs: number): Promise<void> {
	await guest.read('touch /mnt/a/thawed /mnt/b/thawed', withinMs);
}

/** Whether a file system takes no writes, by the guest's own kernel: its `touch` hangs until the thaw, then all is done. */
export async function isFrozen(guest: Guest): Promise<boolean> {
	const {stdout} = await guest.run(
		'touch /mnt/a/probe & for i in 1 2 3 4 5 6 7 8; do kill -0 $! 2>/dev/null || { echo thawed; exit; }; usleep 50000; done; echo frozen',
	);
	return stdout.trim() === 'frozen';
}

/** A backup that must succeed, and what it says of its point. */
export async function takePoint(args: readonly string[], options?: RunOptions): Promise<TakenPoint> {
	const ended = await runQuiesce([...args, '--json'], options);
	if (ended.code !== 0) throw new Error(`exit code ${ended.code ?? ended.signal}\n${ended.stdout}\n${ended.stderr}`);
	const {folder} = lastOf(ended) as unknown as {folder: string};
	return {folder, manifest: await readManifest(folder), ended, recovered: textsOf(ended, 'recovered')};
}

export interface TakenPoint {
	readonly folder: string;
	readonly manifest: PointManifest;
	readonly ended: Ended;
	/** In words, what was mended. */
	readonly recovered: readonly string[];
}

async function readManifest(folder: string): Promise<PointManifest> {
	return JSON.parse(await readFile(join(folder, 'point.json'), 'utf8')) as PointManifest;
}

export function textsOf(ended: Pick<Ended, 'stdout'>, type: string): string[] {
	return jsonLines(ended)
		.filter(message => message.message_type === type)
		.map(message => String(message['text']));
}

/** Restores a point's disks as raw files; their paths, in the guest's order of disks. */
export async function restoreRaw(point: TakenPoint, repository: string, to: string): Promise<string[]> {
	const {vm, id} = point.manifest;
	const args = ['restore', `${vm}@${id}`, '-r', repository, '--to', to, '--format', 'raw', '--json'];
	const ended = await runQuiesce(args);
	if (ended.code !== 0) throw new Error(`exit code ${ended.code ?? ended.signal}\n${ended.stdout}\n${ended.stderr}`);
	const {disks} = lastOf(ended) as unknown as {disks: readonly {path: string}[]};
	return disks.map(disk => disk.path);
}

/** That the raw writer's disks, which are the last two, are those of one instant. Its number of writes. */
export async function expectOneInstant(disks: readonly string[]): Promise<number> {
	const verdict = await explainWrites(disks.slice(-2));
	expect(verdict).toMatchObject({sound: true});
	return verdict.writes;
}
