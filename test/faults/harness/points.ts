import {existsSync} from 'node:fs';
import {readdir, readFile, rm, stat, utimes} from 'node:fs/promises';
import {join} from 'node:path';
import type {PointManifest} from '../../../src/repository/manifest.ts';
import {explainWrites, fsckAfterReplay, needsRecovery, readStamps} from '../../guest/oracle.ts';
import type {Stage} from './stage.ts';

/** What a VM has in a repository, a folder each: the visible points, or those that are hidden as they are not whole. */
export async function pointFolders(
	repository: string,
	vm: string,
	which: 'visible' | 'hidden',
): Promise<readonly string[]> {
	const folder = join(repository, 'vms', vm);
	const names = await readdir(folder).catch(() => []);
	return names.filter(name => name.startsWith('.') === (which === 'hidden')).map(name => join(folder, name));
}

/**
 * A point that is about to appear, or has just been begun, does not say whose it is. Recovery takes it for that of a run
 * on another host, until it is half a minute old. This makes it so old.
 */
export async function ageOwnerless(repository: string, vm: string): Promise<void> {
	const longAgo = new Date(Date.now() - 60_000);
	for (const folder of await pointFolders(repository, vm, 'hidden')) {
		if (!existsSync(join(folder, 'run.json'))) await utimes(folder, longAgo, longAgo);
	}
}

/**
 * Restores every visible point that is not `known`, each of which must be what the guest had at one instant, and a later
 * one what it had later; adds its instant to those. Returns all that are visible, the first one first.
 */
export async function judgePoints(
	stage: Stage,
	repository: string,
	known = new Map<string, Instant>(),
): Promise<readonly PointManifest[]> {
	const judged: PointManifest[] = [];
	let before: Instant | undefined;
	for (const folder of await inOrder(await pointFolders(repository, stage.guest.name, 'visible'))) {
		const manifest = JSON.parse(await readFile(join(folder, 'point.json'), 'utf8')) as PointManifest;
		const {id} = manifest;
		const instant = known.get(id) ?? (await restoreAndJudge(stage, repository, manifest));
		if (before && (instant.writes <= before.writes || instant.stamp <= before.stamp)) {
			throw new Error(`${id} is of ${inWords(instant)}, and the point before it of ${inWords(before)}`);
		}
		known.set(id, instant);
		judged.push(manifest);
		before = instant;
	}
	return judged;
}

async function restoreAndJudge(stage: Stage, repository: string, {id, consistency}: PointManifest): Promise<Instant> {
	const to = stage.new('restored');
	await stage.succeed(['restore', `${stage.guest.name}@${id}`, '-r', repository, '--to', to, '--format', 'raw']);
	const instant = await judgeDisks(stage, to, consistency === 'quiesced');
	await rm(to, {recursive: true});
	return instant;
}

export async function removePoints(stage: Stage, repository: string): Promise<void> {
	for (const folder of await pointFolders(repository, stage.guest.name, 'visible')) await rm(folder, {recursive: true});
}

/** By the kernel's clock: that of the program may have been set. */
async function inOrder(folders: readonly string[]): Promise<string[]> {
	const born = new Map<string, number>();
	for (const folder of folders) born.set(folder, (await stat(folder)).birthtimeMs);
	return folders.toSorted((one, other) => born.get(one)! - born.get(other)!);
}

/** What the guest had done by then. */
export interface Instant {
	readonly writes: number;
	readonly stamp: number;
}

function inWords({writes, stamp}: Instant): string {
	return `write ${writes} and stamp ${stamp}`;
}

/** That raw files of the four disks are those of one instant, which is returned. */
export async function judgeDisks(stage: Stage, folder: string, isQuiesced: boolean): Promise<Instant> {
	const [vda, vdb, vdc, vdd] = ['vda', 'vdb', 'vdc', 'vdd'].map(disk => join(folder, `${disk}.raw`)) as [
		string,
		string,
		string,
		string,
	];
	const verdict = await explainWrites([vdc, vdd]);
	if (!verdict.sound) throw new Error(`not what the guest wrote: ${JSON.stringify(verdict)}`);
	for (const disk of [vda, vdb]) {
		if (isQuiesced && (await needsRecovery(disk))) throw new Error(`${disk} was not frozen at the cut`);
		const {clean, report} = await fsckAfterReplay(disk, stage.new('scratch-disk'));
		if (!clean) throw new Error(`${disk} is damaged: ${report}`);
	}
	const {a, b} = await readStamps(vda, vdb);
	if (a !== b && (isQuiesced || a !== b + 1)) throw new Error(`the file systems are of two instants: ${a} and ${b}`);
	return {writes: verdict.writes, stamp: b};
}
