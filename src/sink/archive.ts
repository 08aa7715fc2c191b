import fs from 'node:fs/promises';
import {objectName} from '../block/names.ts';
import {asError, QuiesceError} from '../errors.ts';
import {yank} from '../jobs/yank.ts';
import type {NbdExport} from '../nbd/export.ts';
import {serveNbd} from '../nbd/server.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {CLUSTER_BYTES} from '../vma/geometry.ts';
import type {VmaDevice} from '../vma/header.ts';
import type {VmaWriter} from '../vma/writer.ts';
import {addNbdNode, giveTo} from './nbd-node.ts';
import {socketIn} from './nbd-socket.ts';
import type {Sink} from './sink.ts';

/** One disk, and the device of the archive that it becomes. */
export interface ArchivedDisk {
	/** The disk's name. */
	readonly name: string;
	readonly device: VmaDevice;
}

export interface ArchiveContext {
	/** The VM's monitor. */
	readonly qmp: QmpConnection;
	readonly run: string;
	/** For the socket; exists, the run's own. */
	readonly folder: string;
	readonly disks: readonly ArchivedDisk[];
	/** Begun, and not finished: that is for whoever opened it, after the sink has settled. */
	readonly writer: VmaWriter;
	/** The user that QEMU runs as, where it is known and another than ours. */
	readonly qemuUid?: number | undefined;
}

/**
 * The VM's QEMU pushes the disks, in whatever order, to an NBD server of this process, which writes them to an archive at
 * once. A request is answered when the archive takes more, so what is held in memory is bounded: by what
 * the server lets be under way for each disk, and by the writer.
 */
export async function openArchiveSink({qmp, run, folder, disks, writer, qemuUid}: ArchiveContext): Promise<Sink> {
	const socket = socketIn(folder);
	const broken = Promise.withResolvers<never>();
	// Told by the job too, where nobody waits for it any more.
	broken.promise.catch(() => undefined);
	const targets = disks.map(({name}) => objectName(run, name, 'target'));
	const exports = new Map(
		disks.map(({device}, index) => [`disk${index}`, archivedExport(writer, device, broken.reject)] as const),
	);
	const server = await serveNbd({unix: socket}, exports);
	const stopAll = async (): Promise<void> => {
		await fs.rm(socket, {force: true});
		// What waits for an output that hangs is not to be waited for.
		writer.fail(new QuiesceError('FAILED', 'the archive was given up'));
		await yank(qmp, targets).catch(() => undefined);
		await server.close();
	};
	try {
		await giveTo(qemuUid, folder, socket);
		for (const [index, node] of targets.entries())
			await addNbdNode(qmp, node, {of: 'the archive', socket, export: `disk${index}`});
	} catch (error) {
		await stopAll();
		throw error;
	}
	return {
		nodeOf: disk => objectName(run, disk, 'target'),
		exportOf: () => {
			throw new QuiesceError('REFUSED', 'an archive takes nothing that is pulled');
		},
		jobCompresses: false,
		broken: broken.promise,
		settle: async () => {
			for (const target of targets) await qmp.execute('blockdev-del', {'node-name': target});
			await server.close();
			await fs.rm(socket, {force: true});
		},
		abandon: stopAll,
	};
}

/** Takes each cluster of a disk once. What fails in it is told with its reason, which QEMU would not pass on. */
function archivedExport(
	writer: VmaWriter,
	{id, name, sizeBytes}: VmaDevice,
	onError: (error: Error) => void,
): NbdExport {
	const told = async (offset: number, length: number, write: () => Promise<void>): Promise<void> => {
		try {
			const isWhole = offset % CLUSTER_BYTES === 0 && (length % CLUSTER_BYTES === 0 || offset + length === sizeBytes);
			if (!isWhole) {
				throw new QuiesceError(
					'FAILED',
					`${name}: QEMU copies ${length} bytes at ${offset}, which are no whole clusters`,
				);
			}
			await write();
		} catch (error) {
			onError(asError(error));
			throw error;
		}
	};
	return {
		sizeBytes,
		blockSizes: {minimum: 512, preferred: CLUSTER_BYTES, maximum: 32 * 1024 * 1024},
		write: (offset, data) => told(offset, data.length, () => writer.write(id, offset, data)),
		writeZeroes: (offset, length) => told(offset, length, () => writer.writeZeroes(id, offset, length)),
		// The archive is synced when all is in it.
		flush: () => Promise.resolve(),
	};
}
