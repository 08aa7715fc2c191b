import {createHash} from 'node:crypto';
import {createReadStream, existsSync} from 'node:fs';
import {mkdir, readdir, readFile, rm, utimes} from 'node:fs/promises';
import {join} from 'node:path';
import {pipeline} from 'node:stream/promises';
import type {PointManifest} from '../../src/repository/manifest.ts';
import {rawCopy} from '../guest/disks.ts';
import {fsckAfterReplay, needsRecovery, readStamps} from '../guest/oracle.ts';
import {type DiskState, readState} from './disk-state.ts';
import {EXT4_DISKS, WRITTEN_DISKS} from './vm.ts';

/** A folder of raw files, one for each disk. */
export type Restored = string;

export function vmFolder(repository: string, vm: string): string {
	return join(repository, 'vms', vm);
}

/** The ids of the points, the oldest first. One that is removed may stay unseen, for those that lie on it. */
export async function visiblePoints(repository: string, vm: string): Promise<string[]> {
	const folder = vmFolder(repository, vm);
	const names = (await readdir(folder).catch(() => [])).filter(name => /^\d/.test(name));
	return names.filter(name => existsSync(join(folder, name, 'point.json'))).sort();
}

/** What is not a point, or no more. A folder that says of nobody whose it is stays for half a minute; it is made so old. */
export async function hiddenFolders(repository: string, vm: string): Promise<string[]> {
	const folder = vmFolder(repository, vm);
	const names = (await readdir(folder).catch(() => [])).filter(name => name.startsWith('.'));
	return names.map(name => join(folder, name));
}

export async function makeOld(folders: readonly string[]): Promise<void> {
	const longAgo = new Date(Date.now() - 60_000);
	for (const folder of folders) await utimes(folder, longAgo, longAgo);
}

export async function manifestOf(folder: string): Promise<PointManifest> {
	return JSON.parse(await readFile(join(folder, 'point.json'), 'utf8')) as PointManifest;
}

/** With nothing but qemu-img. */
export async function convertPoint(folder: string, to: Restored): Promise<void> {
	await mkdir(to);
	for (const {name, file} of (await manifestOf(folder)).disks) {
		await rawCopy({path: join(folder, file), format: 'qcow2'}, join(to, `${name}.raw`));
	}
}

export function writtenStates(restored: Restored): Promise<DiskState[]> {
	return Promise.all(WRITTEN_DISKS.map((name, disk) => readState(join(restored, `${name}.raw`), disk)));
}

/** Of the disks with file systems, whose bytes are known only once they have been seen. */
export async function ext4Hashes(restored: Restored): Promise<string> {
	const hash = createHash('sha256');
	for (const disk of EXT4_DISKS) {
		await pipeline(createReadStream(join(restored, `${disk}.raw`)), hash, {end: false});
	}
	return hash.digest('hex');
}

/** That the file systems are whole and of one instant. Returns what is wrong. */
export async function judgeFileSystems(restored: Restored, isQuiesced: boolean): Promise<string[]> {
	const [vda, vdb] = EXT4_DISKS.map(disk => join(restored, `${disk}.raw`)) as [string, string];
	const wrong: string[] = [];
	for (const disk of [vda, vdb]) {
		if (isQuiesced && (await needsRecovery(disk))) wrong.push(`${disk} was not frozen at the cut`);
		const replayed = `${disk}.replayed`;
		const {clean, report} = await fsckAfterReplay(disk, replayed);
		await rm(replayed);
		if (!clean) wrong.push(`${disk} is damaged: ${report}`);
	}
	const {a, b} = await readStamps(vda, vdb);
	if (a !== b && (isQuiesced || a !== b + 1)) wrong.push(`the file systems are of two instants: ${a} and ${b}`);
	return wrong;
}
