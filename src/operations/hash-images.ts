import fs from 'node:fs/promises';
import {StorageDaemon} from '../images/storage-daemon.ts';
import {hashWrites, STORED_CONTEXT} from '../sink/hash-writes.ts';
import {socketIn} from '../sink/nbd-socket.ts';
import type {SinkDisk} from '../sink/sink.ts';
import type {VmRequest} from './with-vm.ts';

/** Reads whole images that stand alone, and hands over their hashes. `folder` is the run's, for a socket. */
export async function hashImages(
	folder: string,
	disks: readonly SinkDisk[],
	{signal, transcript}: Pick<VmRequest, 'signal' | 'transcript'>,
): Promise<void> {
	const socket = socketIn(folder);
	const daemon = await StorageDaemon.start(socket, {record: transcript?.of('daemon'), whenKilled: 'die'});
	try {
		for (const [index, disk] of disks.entries()) {
			const name = `disk${index}`;
			await daemon.serveReadOnly({name, path: disk.path, chain: 'alone'});
			await hashWrites(disk, {socket, name, context: STORED_CONTEXT}, signal);
			await daemon.closeReadOnly({name});
		}
		await daemon.stop();
	} catch (error) {
		await daemon.kill();
		throw error;
	} finally {
		await fs.rm(socket, {force: true});
	}
}
