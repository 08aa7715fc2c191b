import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {fileError, readDocument} from '../repository/durable-files.ts';
import {isSnapshotName, SNAPSHOT_FILE} from './layout.ts';
import {parseSnapshot, type SnapshotManifest} from './manifest.ts';

export interface Snapshot {
	readonly state: 'readable';
	readonly name: string;
	readonly folder: string;
	readonly manifest: SnapshotManifest;
}

export interface DamagedSnapshot {
	readonly state: 'damaged';
	readonly name: string;
	readonly folder: string;
	readonly reason: string;
}

/** The finished snapshots of one folder, the oldest first; none where there is no such folder. */
export async function listSnapshots(folder: string): Promise<readonly (Snapshot | DamagedSnapshot)[]> {
	const entries = await fs.readdir(folder, {withFileTypes: true}).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return [];
		throw fileError('read', folder, error);
	});
	const names = entries.flatMap(entry => (entry.isDirectory() && isSnapshotName(entry.name) ? entry.name : []));
	const found = await Promise.all(names.map(name => readSnapshot(path.join(folder, name), name)));
	return found.toSorted((one, other) => (timeOf(one) < timeOf(other) ? -1 : 1));
}

async function readSnapshot(folder: string, name: string): Promise<Snapshot | DamagedSnapshot> {
	const file = path.join(folder, SNAPSHOT_FILE);
	try {
		const manifest = parseSnapshot(await readDocument(file), file);
		if (manifest.name === name) return {state: 'readable', name, folder, manifest};
		return {state: 'damaged', name, folder, reason: `${file} is of another snapshot, ${manifest.name}`};
	} catch (error) {
		const reason = error instanceof QuiesceError ? error.message : fileError('read', file, error).message;
		return {state: 'damaged', name, folder, reason};
	}
}

function timeOf(snapshot: Snapshot | DamagedSnapshot): string {
	return snapshot.state === 'readable' ? snapshot.manifest.cutAt : '';
}
