import fs from 'node:fs/promises';
import {fileNameOf} from '../block/layers.ts';
import {asError, errnoOf} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {isThere, syncFile} from '../repository/durable-files.ts';
import {removeFile} from '../snapshots/overlay-file.ts';
import type {MergeRecord} from './chain-journal.ts';
import {imagesOver, processesUsing} from './image-users.ts';
import type {Session} from './vm-session.ts';

export type SettledFile =
	| {readonly kind: 'removed'; readonly file: string}
	/** It has left the chain, and is still there: why it was not removed; null where it was not to be. */
	| {readonly kind: 'kept'; readonly file: string; readonly why: string | null};

/**
 * Removes the files of layers that have left their chain: each once it is shown that nothing uses it, and that all it held is on
 * the disk elsewhere. From the bottom: if that is cut off, the others cannot be opened any more, and show nobody what the disk
 * held before. `files` has the top first.
 */
export async function removeFiles(
	vm: Session,
	{into, flushed, files}: Pick<MergeRecord, 'into' | 'flushed' | 'files'>,
): Promise<SettledFile[]> {
	if (files.length === 0) return [];
	// Of a VM that is off nothing is written after that.
	if (vm.power === 'on') await flush(vm.qmp, into);
	for (const file of flushed) await syncFile(await fs.realpath(file));
	const settled: SettledFile[] = [];
	const going: string[] = [];
	for (const {file, inode} of files) {
		if (!(await isThere(file))) continue;
		const why = await reasonToKeep(vm, {file, inode}, going);
		if (why === undefined) going.push(file);
		else settled.push({kind: 'kept', file, why});
	}
	for (const file of going.toReversed()) {
		await removeFile(file);
		settled.push({kind: 'removed', file});
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

/** `above` are to go too. */
async function reasonToKeep(
	vm: Session,
	{file, inode}: MergeRecord['files'][number],
	above: readonly string[],
): Promise<string | undefined> {
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
	const user = (await processesUsing([file], [])).get(file) ?? (await imagesOver([file], {except: above})).get(file);
	return user === undefined ? undefined : `it is used by ${user}`;
}
