import fs from 'node:fs/promises';
import path from 'node:path';
import {asError} from '../errors.ts';
import {isThere} from '../repository/durable-files.ts';
import {stateOf} from '../repository/owner.ts';
import {
	type ListedPartialSnapshot,
	listPartialSnapshots,
	readPartial,
	appear,
	isComplete,
	removePartialSnapshot,
} from '../snapshots/partial-snapshot.ts';
import {removeDeleted} from '../snapshots/deletion.ts';
import {parsePartialFolderName, snapshotsFolder} from '../snapshots/layout.ts';
import {qemuOf} from './capture-machine.ts';
import {isAlive, runFolders} from './run.ts';
import {settleSnapshot} from './settle-snapshot.ts';
import {readChains} from './disk-chains.ts';
import {settleDeletion} from './settle-deletion.ts';
import {readableSnapshots, snapshotFolders} from './snapshot-folders.ts';
import {clearPointer, snapshotOfRun} from './snapshot-pointer.ts';
import type {Session} from './vm-session.ts';

/** Much longer than the moments for which the folder of a live run has no journal. */
const OWNERLESS_MS = 30_000;

/**
 * Ends the snapshots of dead runs: those that came as far as the cut are finished, the others undone. Those of another
 * host's, on a shared file system, are left alone. The caller holds the VM's lock. Returns what it did, in words.
 */
export async function recoverSnapshots(vm: Session, named?: string): Promise<string[]> {
	const qemuFolder = (await qemuOf(vm))?.cwd;
	const folders = snapshotFolders(vm.name, await vm.readGraph(), qemuFolder, named);
	const done: string[] = [];
	const settle = async ({folder, name, partial}: ListedPartialSnapshot): Promise<void> => {
		if (partial) {
			if (partial.plan.vm !== vm.name || (await stateOf(partial.journal)) !== 'dead') return;
			done.push(...(await settleSnapshot({...vm, qemuFolder}, partial)));
		} else if (await isComplete(folder)) {
			await appear(folder);
			done.push(`finished the snapshot ${name}, of which only the name was missing`);
		} else if ((await ageMs(folder)) > OWNERLESS_MS) {
			await removePartialSnapshot(folder);
			done.push(`removed the unfinished snapshot ${name}`);
		}
	};
	for (const folder of folders) for (const listed of await listPartialSnapshots(folder)) await settle(listed);
	for (const {run, folder: runFolder} of await runFolders()) {
		const folder = await snapshotOfRun(runFolder);
		if (folder === undefined || (await isAlive(run))) continue;
		const partial = await readPartial(folder).catch((error: unknown) => asError(error));
		if (partial instanceof Error) {
			done.push(`left the unfinished snapshot of run ${run}, which cannot be read: ${partial.message}`);
			continue;
		}
		const name = parsePartialFolderName(path.basename(folder));
		const isOfVm = path.basename(path.dirname(folder)) === path.basename(snapshotsFolder('', vm.name));
		if (name === undefined || !isOfVm) continue;
		// Also where it does not say whose it is any more: it lacked its name only.
		await settle({folder, name, partial});
		if (partial || !(await isThere(folder))) await clearPointer(runFolder);
	}
	return done;
}

/** Ends the deletions of dead runs, once it is settled what these have merged. Returns what it did, in words. */
export async function recoverDeletions(vm: Session, named?: string): Promise<string[]> {
	const known = await readableSnapshots(vm, named);
	const files = new Set((await readChains(vm)).chains.flatMap(({layers}) => layers.flatMap(({file}) => file ?? [])));
	const done: string[] = [];
	for (const snapshot of known) done.push(...(await settleDeletion(snapshot, known, files)));
	for (const folder of snapshotFolders(vm.name, await vm.readGraph(), (await qemuOf(vm))?.cwd, named)) {
		for (const name of await removeDeleted(folder))
			done.push(`removed the rest of the snapshot ${name}, which was deleted`);
	}
	return done;
}

async function ageMs(folder: string): Promise<number> {
	return Date.now() - (await fs.stat(folder)).mtimeMs;
}
