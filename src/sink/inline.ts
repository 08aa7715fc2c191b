import fs from 'node:fs/promises';
import {objectName} from '../block/names.ts';
import {QuiesceError} from '../errors.ts';
import {StorageDaemon} from '../images/storage-daemon.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpBlockdevOptions} from '../qmp/schema.ts';
import {hashWrites, STORED_CONTEXT} from './hash-writes.ts';
import {socketIn} from './nbd-socket.ts';
import {makeImage} from './make-image.ts';
import type {Sink, SinkContext, SinkDisk} from './sink.ts';

/**
 * The VM's QEMU opens the images itself: the fastest way, but a file system that hangs under them can hang the guest,
 * and QEMU needs permission to write to them.
 */
export async function openInlineSink(context: SinkContext): Promise<Sink> {
	const {qmp, run, disks, compression} = context;
	await Promise.all(disks.map(disk => makeImage(disk, disk.sizeBytes, compression)));
	for (const disk of disks) {
		await qmp.execute('blockdev-add', imageNode(run, disk, false)).catch((cause: unknown) => {
			if (!(cause instanceof QmpCommandError)) throw cause;
			throw new QuiesceError('REFUSED', `QEMU cannot write ${disk.path}: ${cause.message}`, {
				cause,
				hint: 'With --sink inline QEMU itself opens the repository. The default sink needs no permission for it.',
			});
		});
	}
	return {
		nodeOf: disk => objectName(run, disk, 'target'),
		exportOf: () => {
			throw new QuiesceError('REFUSED', 'only a daemon takes what is pulled', {hint: 'Leave out --sink inline.'});
		},
		jobCompresses: compression === 'zstd',
		broken: new Promise<never>(() => undefined),
		settle: async () => {
			for (const disk of disks) {
				// Opening it again read-only flushes it and says whether that worked, which closing does not.
				await qmp.execute('blockdev-reopen', {options: [imageNode(run, disk, true)]});
				await qmp.execute('blockdev-del', {'node-name': objectName(run, disk.name, 'target')});
			}
			await hashStored(context);
		},
		abandon: () => Promise.resolve(),
	};
}

/** The images are closed; a daemon of ours reads them, so that a file system that hangs under them is not QEMU's. */
async function hashStored({folder, disks, transcript, signal}: SinkContext): Promise<void> {
	const socket = socketIn(folder);
	const daemon = await StorageDaemon.start(socket, {record: transcript?.of('daemon')});
	try {
		await Promise.all(
			disks.map(async (disk, index) => {
				const name = `disk${index}`;
				await daemon.serveReadOnly({name, path: disk.path, chain: 'alone'});
				await hashWrites(disk, {socket, name, context: STORED_CONTEXT}, signal);
			}),
		);
		await daemon.stop();
	} catch (error) {
		await daemon.kill();
		throw error;
	} finally {
		await fs.rm(socket, {force: true});
	}
}

function imageNode(run: string, {name, path}: SinkDisk, readOnly: boolean): QmpBlockdevOptions {
	return {
		'driver': 'qcow2',
		'node-name': objectName(run, name, 'target'),
		'read-only': readOnly,
		'detect-zeroes': 'unmap',
		'discard': 'unmap',
		// What lies beneath is neither read nor locked: the job writes whole clusters.
		'backing': null,
		'file': {driver: 'file', filename: path},
	};
}
