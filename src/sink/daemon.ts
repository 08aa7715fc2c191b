import fs from 'node:fs/promises';
import {objectName} from '../block/names.ts';
import {shrinkImage} from '../images/shrink-image.ts';
import {ALIGNMENT_BYTES, type DaemonImage, StorageDaemon} from '../images/storage-daemon.ts';
import {yank} from '../jobs/yank.ts';
import {hashWrites} from './hash-writes.ts';
import {makeImage} from './make-image.ts';
import {addNbdNode, giveTo} from './nbd-node.ts';
import {socketIn} from './nbd-socket.ts';
import type {Sink, SinkContext} from './sink.ts';

const INSTEAD = ' With --sink inline QEMU opens the repository itself.';

/**
 * The images are opened by a storage daemon of ours, and the VM's QEMU, or a client of ours, writes to it over a Unix socket:
 * QEMU never opens the repository, so a hung target file cannot hang its threads, and a guest that breaks out of it finds no older point.
 */
export async function openDaemonSink(context: SinkContext): Promise<Sink> {
	const {qmp, run, folder, compression, writer} = context;
	const socket = socketIn(folder);
	const images = new Map<string, DaemonImage>();
	for (const [index, {name, path: file, sizeBytes, base}] of context.disks.entries()) {
		// Clusters that are there already cannot be written compressed (block/qcow2.c qcow2_co_pwritev_compressed_part).
		const compress = compression === 'zstd' && base?.kind !== 'clone';
		images.set(name, {name: `disk${index}`, path: file, sizeBytes, compress, recordsWrites: true});
	}
	await Promise.all(context.disks.map(disk => makeImage(disk, roundUp(disk.sizeBytes), compression)));
	const daemon = await StorageDaemon.start(socket, {record: context.transcript?.of('daemon')});
	const targets = writer === 'qemu' ? [...images.keys()].map(disk => objectName(run, disk, 'target')) : [];
	// A daemon on a dead file system outlives SIGKILL: nobody is to wait for it, or to reach it again. In this order, since
	// it reads no more then, and QEMU does not notice a broken connection while it waits to send.
	const stopAll = async (): Promise<void> => {
		await fs.rm(socket, {force: true});
		await yank(qmp, targets).catch(() => undefined);
		await daemon.kill();
	};
	try {
		await giveTo(writer === 'qemu' ? context.qemuUid : undefined, folder, socket);
		for (const [disk, image] of images) {
			await daemon.serve(image);
			if (writer === 'client') continue;
			await addNbdNode(
				qmp,
				objectName(run, disk, 'target'),
				{of: 'the storage daemon', socket, export: image.name},
				INSTEAD,
			);
		}
	} catch (error) {
		await stopAll();
		throw error;
	}
	return {
		nodeOf: disk => objectName(run, disk, 'target'),
		exportOf: disk => ({socket, name: images.get(disk)?.name ?? disk}),
		jobCompresses: false,
		broken: daemon.died,
		settle: async () => {
			// What the jobs wrote was acknowledged, and is the daemon's to flush. QEMU would wait for that flush in its main
			// loop, and the guest with it, when it closes a node that is connected.
			await yank(qmp, targets);
			for (const target of targets) await qmp.execute('blockdev-del', {'node-name': target});
			await Promise.all(
				context.disks.map(async disk => {
					const image = images.get(disk.name);
					if (!image) return;
					const {exportName, context: written} = await daemon.shareWrites(image);
					await hashWrites(disk, {socket, name: exportName, context: written}, context.signal);
				}),
			);
			for (const image of images.values()) await daemon.settle(image);
			await daemon.stop();
			for (const {path: file, sizeBytes, base} of context.disks) {
				if (sizeBytes !== roundUp(sizeBytes) && base?.kind !== 'clone') await shrinkImage(file, sizeBytes);
			}
		},
		abandon: stopAll,
	};
}

function roundUp(bytes: number): number {
	return Math.ceil(bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}
