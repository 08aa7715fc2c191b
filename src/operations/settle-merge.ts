import fs from 'node:fs/promises';
import path from 'node:path';
import {fileNameOf} from '../block/layers.ts';
import {asError, errnoOf} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {syncFile, syncFolder} from '../repository/durable-files.ts';
import type {MergeRecord} from './chain-journal.ts';
import {imagesOver, processesUsing} from './image-users.ts';
import type {VmSession} from './vm-session.ts';

export type SettledFile =
	| {readonly kind: 'removed'; readonly file: string}
	/** It has left the chain, and is still there: why it was not removed; null where it was not to be. */
	| {readonly kind: 'kept'; readonly file: string; readonly why: string | null};

/**
 * Removes the files of layers that have left their chain, the top first: each once it is shown that nothing uses it, and
 * that all it held is on the disk elsewhere.
 */
export async function removeFiles(
	vm: VmSession,
	{into, flushed, files}: Pick<MergeRecord, 'into' | 'flushed' | 'files'>,
): Promise<SettledFile[]> {
	if (files.length === 0) return [];
	await flush(vm.qmp, into);
	for (const file of flushed) await syncFile(await fs.realpath(file));
	const settled: SettledFile[] = [];
	for (const {file, inode} of files) {
		const why = await reasonToKeep(vm, file, inode);
		if (why !== undefined) settled.push({kind: 'kept', file, why});
		else {
			await fs.rm(file);
			await syncFolder(path.dirname(file));
			settled.push({kind: 'removed', file});
		}
	}
	return settled;
}

/**
 * What is written down into a base is flushed when its job is ready, and not after: what the guest has flushed since is on
 * the disk in the overlay alone. QEMU does not say how it went; a failure shows at the next write of the guest.
 */
async function flush(qmp: QmpConnection, node: string): Promise<void> {
	await qmp.execute('human-monitor-command', {'command-line': `qemu-io ${node} "flush"`});
}

async function reasonToKeep(vm: VmSession, file: string, inode: number): Promise<string | undefined> {
	try {
		const stat = await fs.lstat(file);
		if (!stat.isFile() || stat.ino !== inode) return 'another file is in its place';
	} catch (error) {
		if (errnoOf(error) === undefined) throw error;
		return `it cannot be looked at: ${asError(error).message}`;
	}
	const {nodes} = await vm.readGraph();
	const node = [...nodes.values()].find(candidate => fileNameOf(nodes, candidate) === file);
	if (node) return `the node ${node.name} of this VM has it open`;
	const user = (await processesUsing([file], [])).get(file) ?? (await imagesOver([file])).get(file);
	return user === undefined ? undefined : `it is used by ${user}`;
}
