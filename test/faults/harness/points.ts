import {existsSync} from 'node:fs';
import {readdir, readFile, rm, utimes} from 'node:fs/promises';
import {join} from 'node:path';
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

/** Restores every visible point, which must be what the guest had at one instant, and removes it. Returns how many. */
export async function judgePoints(stage: Stage, repository: string): Promise<number> {
	const points = await pointFolders(repository, stage.guest.name, 'visible');
	for (const folder of points) {
		const to = stage.new('restored');
		const id = `${stage.guest.name}@${folder.slice(folder.lastIndexOf('/') + 1)}`;
		await stage.succeed(['restore', id, '-r', repository, '--to', to, '--format', 'raw']);
		const {consistency} = JSON.parse(await readFile(join(folder, 'point.json'), 'utf8')) as {consistency: string};
		await judgeDisks(stage, to, consistency === 'quiesced');
		await rm(to, {recursive: true});
		await rm(folder, {recursive: true});
	}
	return points.length;
}

/** That raw files of the four disks are those of one instant. */
export async function judgeDisks(stage: Stage, folder: string, isQuiesced: boolean): Promise<void> {
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
}
