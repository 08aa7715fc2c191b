import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';
import {folderOfRun} from './run.ts';

/** Where the VM's QEMU exports disks to a run, in a folder that this user and QEMU's alone can enter. Returns the socket's path. */
export async function makeExportsFolder(runFolder: string, qemuUid: number | undefined): Promise<string> {
	const socket = socketIn(runFolder);
	const folder = path.dirname(socket);
	await fs.mkdir(folder, {mode: 0o700});
	if (qemuUid !== undefined) {
		await fs.chown(folder, qemuUid, -1);
		await fs.chmod(runFolder, 0o711);
	}
	return socket;
}

/** As long as QEMU has a server of that run: it removes the socket with it. */
export async function hasExportsSocket(run: string): Promise<boolean> {
	try {
		await fs.access(socketIn(await folderOfRun(run)));
		return true;
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return false;
		throw error;
	}
}

function socketIn(runFolder: string): string {
	return path.join(runFolder, 'qemu', 'nbd.sock');
}
