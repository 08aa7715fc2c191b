import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {fileError, readDocument} from '../repository/durable-files.ts';
import {hashFiles} from '../repository/hash-file.ts';
import {MACHINE_FILE, SUMS_FILE} from '../repository/layout.ts';
import {type Machine, parseMachine} from '../repository/machine.ts';
import {parseSums} from '../repository/sums.ts';
import type {Snapshot} from './snapshots.ts';

/** The file systems of bases may count time in whole seconds. */
const SLACK_MS = 2_000;

/** Throws `DAMAGED` if a file of the snapshot is not what its checksums say. Returns what starts its VM. */
export async function requireSoundFiles({folder, manifest}: Snapshot, signal: AbortSignal): Promise<Machine> {
	const list = path.join(folder, SUMS_FILE);
	const sums = parseSums(await readDocument(list), list);
	const named = [MACHINE_FILE, ...(manifest.memory ? [manifest.memory.file] : [])];
	const missing = named.find(file => !sums.has(file));
	if (missing !== undefined) throw new QuiesceError('DAMAGED', `${list} does not have ${missing}`);
	const files = [...sums.keys()].map(file => path.join(folder, file));
	for (const [file, hash] of await hashFiles(files, {signal})) {
		if (hash instanceof Error) throw fileError('read', file, hash);
		if (hash.sha256 === sums.get(path.basename(file))) continue;
		throw new QuiesceError('DAMAGED', `${file} is not what it was when the snapshot was taken`);
	}
	const machine = path.join(folder, MACHINE_FILE);
	return parseMachine(await readDocument(machine), machine);
}

/** Throws `DAMAGED` if a base is not there any more, is another file, or was written to after the snapshot. */
export async function requireSoundBases({name, manifest}: Snapshot): Promise<void> {
	for (const {name: disk, base, overlay, spoiled = false, rewrittenAt = manifest.finishedAt} of manifest.disks) {
		const damaged = (why: string): QuiesceError =>
			new QuiesceError(
				'DAMAGED',
				`the snapshot ${name} cannot be brought back: ${base.file}, which holds ${disk}, ${why}`,
				{
					hint: 'Did another program merge an overlay into it, or start a VM from it?',
				},
			);
		if (spoiled || base.file === overlay?.file) throw damaged('has been merged into, or a part of it');
		const stat = await fs.stat(base.file).catch((error: unknown) => {
			if (errnoOf(error) === 'ENOENT') throw damaged('is not there any more');
			throw fileError('read', base.file, error);
		});
		if (base.inode !== null && stat.ino !== base.inode) throw damaged('is another file than at the snapshot');
		if (stat.isFile() && stat.mtimeMs > Date.parse(rewrittenAt) + SLACK_MS) {
			throw damaged('has been written to since the snapshot');
		}
	}
}
