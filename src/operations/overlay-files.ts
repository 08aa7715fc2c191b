import fs from 'node:fs/promises';
import path from 'node:path';
import {isTemporaryOverlay, runOf} from '../block/names.ts';
import {errnoOf, QuiesceError} from '../errors.ts';
import {processStartedAt} from '../host/start-ticks.ts';
import {readQcow2Header} from '../images/qcow2-header.ts';
import {removeFile, stateOfOverlay} from '../snapshots/overlay-file.ts';
import {qemuOf} from './capture-machine.ts';
import {nodeOfOverlayFile} from './overlay-disks.ts';
import {isAlive} from './run.ts';
import {fileOn} from './source-images.ts';
import type {VmSession} from './vm-session.ts';

/**
 * The temporary overlays of dead runs that a VM does not use. One that holds nothing is removed, and so is one that was
 * committed already: the same QEMU has gone on from the image since. What another QEMU has left may be all that has what the guest
 * wrote last: it is told of, and never touched. Returns what was done, in words.
 */
export async function removeOverlayFiles(vm: VmSession): Promise<string[]> {
	const qemu = await qemuOf(vm);
	const {nodes} = await vm.readGraph();
	const used = new Set([...nodes.values()].flatMap(({filename}) => fileOn(filename, qemu?.cwd) ?? []));
	const done: string[] = [];
	for (const folder of new Set([...used].map(file => path.dirname(file)))) {
		for (const {run, file} of await overlayFilesIn(folder)) {
			if (used.has(file) || (await isAlive(run))) continue;
			const base = await baseOf(file);
			// Another VM's image may lie in the same folder.
			if (base !== 'none' && !used.has(base ?? '')) continue;
			const {ino: inode, birthtimeMs} = await fs.stat(file);
			const state = await stateOfOverlay({file, inode});
			if (state === 'unused') {
				await removeFile(file);
				done.push(`removed the overlay ${file} of run ${run}, which was not in use`);
			}
			if (state !== 'written') continue;
			if (qemu && (await processStartedAt(qemu.startTicks)).getTime() + SECOND < birthtimeMs) {
				await removeFile(file);
				done.push(`removed the overlay ${file} of run ${run}, which is in its image by now`);
			} else {
				done.push(
					`left ${file}: it has what the guest wrote while run ${run} copied ${base ?? ''}, and QEMU was started without it: ` +
						'that is lost to the guest. Look at it, or remove it',
				);
			}
		}
	}
	return done;
}

/** To which the start of a process is known. */
const SECOND = 1_000;

async function overlayFilesIn(folder: string): Promise<{run: string; file: string}[]> {
	const names = await fs.readdir(folder).catch((error: unknown) => {
		if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error) ?? '')) return [];
		throw error;
	});
	return names.flatMap(name => {
		const node = nodeOfOverlayFile(name) ?? '';
		const run = isTemporaryOverlay(node) ? runOf(node) : undefined;
		return run === undefined ? [] : [{run, file: path.join(folder, name)}];
	});
}

/** `none` where the image was only about to be made; undefined for another program's file. */
async function baseOf(file: string): Promise<string | undefined> {
	try {
		if ((await fs.stat(file)).size === 0) return 'none';
		const {backingFile} = await readQcow2Header(file);
		return backingFile === null ? undefined : path.resolve(path.dirname(file), backingFile);
	} catch (error) {
		if (error instanceof QuiesceError && error.code === 'DAMAGED') return undefined;
		throw error;
	}
}
