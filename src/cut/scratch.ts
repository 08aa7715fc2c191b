import fs from 'node:fs/promises';
import path from 'node:path';
import {isScratch, runOf} from '../block/names.ts';
import {asError, errnoOf, QuiesceError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';

const SUFFIX = '.scratch';

/** Where one disk's old data goes when the guest overwrites it. */
export interface Scratch {
	/** The node's name, and the stem of the file's. */
	readonly node: string;
	/** On this host. Local to the VM's QEMU, which opens it. */
	readonly folder: string;
	/** Of the disk: the file is sparse, and grows by what the guest overwrites. */
	readonly sizeBytes: number;
	/** The user that QEMU runs as, where it is another than ours. */
	readonly ownerUid?: number | undefined;
}

/**
 * Gives QEMU a scratch file. It loses its name as soon as QEMU has it open, so that it goes when QEMU closes it or ends:
 * however this run ends, no file stays behind.
 */
export async function addScratch(qmp: QmpConnection, {node, folder, sizeBytes, ownerUid}: Scratch): Promise<void> {
	const file = path.join(folder, `.${node}${SUFFIX}`);
	try {
		await create(file, sizeBytes, ownerUid);
		await qmp.execute('blockdev-add', {
			'driver': 'file',
			'node-name': node,
			'filename': file,
			// It need not outlive QEMU: a flush of all images, as a pause makes one, is not to wait for it.
			'cache': {'no-flush': true},
		});
	} catch (cause) {
		if (!(cause instanceof QmpCommandError) && errnoOf(cause) === undefined) throw cause;
		throw noScratch(folder, asError(cause).message, cause);
	} finally {
		await fs.rm(file, {force: true});
	}
}

/** For whatever keeps scratch out of a folder, found beforehand or on the way. */
export function noScratch(folder: string, why: string, cause: unknown): QuiesceError {
	return new QuiesceError('REFUSED', `cannot have scratch in ${folder}: ${why}`, {
		cause,
		hint: 'Name a folder that this program and the QEMU of the VM can write, with --scratch; or use --method push.',
	});
}

async function create(file: string, sizeBytes: number, ownerUid: number | undefined): Promise<void> {
	const handle = await fs.open(file, 'wx', 0o600);
	try {
		await handle.truncate(sizeBytes);
		if (ownerUid !== undefined) await handle.chown(ownerUid, -1);
	} finally {
		await handle.close();
	}
}

/** The scratch files in a folder that still have a name, each with its run. */
export async function scratchFilesIn(folder: string): Promise<{run: string; file: string}[]> {
	const names = await fs.readdir(folder).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error) ?? '')) return [];
		throw error;
	});
	return names.flatMap(name => {
		const node = name.startsWith('.') && name.endsWith(SUFFIX) ? name.slice(1, -SUFFIX.length) : '';
		const run = isScratch(node) ? runOf(node) : undefined;
		return run === undefined ? [] : [{run, file: path.join(folder, name)}];
	});
}
