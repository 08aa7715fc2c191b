import {capabilitiesOf} from '../block/probe.ts';
import {objectName} from '../block/names.ts';
import {accessTo, CLUSTER_BYTES} from '../cut/fleece.ts';
import {QuiesceError} from '../errors.ts';
import {ZERO_CONTEXT} from '../images/cluster-runs.ts';
import {NbdClient} from '../nbd/client.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {CopyTask} from './copy-task.ts';
import {makeExportsFolder} from './exports-socket.ts';
import type {DiskCopy} from './plan-copies.ts';
import {viewedDisk} from './prepare-cut.ts';

/** A disk as it was at the cut, and a client of ours that reads it from QEMU. */
export interface DiskReader {
	readonly copy: DiskCopy;
	readonly client: NbdClient;
	/** No request may cross a multiple of it, but for those about {@link changes}. */
	readonly pieceBytes: number | undefined;
	/** The context that tells what is to be copied, if not all is. */
	readonly changes: string | undefined;
}

export interface Readers {
	readonly disks: readonly DiskReader[];
	/** Ends our connections. What is inside QEMU goes with the run. */
	close(): Promise<void>;
}

/** After a cut that is shown: has QEMU export the disks to us alone. Aborting `signal` ends all that is read. */
export async function openReaders(task: CopyTask, signal?: AbortSignal): Promise<Readers> {
	const {vm, run, copies, qemuUid} = task;
	const readsMayBeLong = capabilitiesOf(vm.schema, vm.qmp.version)['snapshot-access-large-reads'].available;
	const pieceBytes = readsMayBeLong ? undefined : CLUSTER_BYTES;
	const socket = await startServer(vm.qmp, await makeExportsFolder(run.folder, qemuUid));
	const disks: DiskReader[] = [];
	const close = async (): Promise<void> => {
		await Promise.all(disks.map(({client}) => client.close()));
	};
	try {
		for (const copy of copies) {
			const {name} = copy.disk;
			await addExport(task, copy);
			const changes = copy.parent && `qemu:dirty-bitmap:${objectName(run.id, name, 'changes')}`;
			const metaContexts = [ZERO_CONTEXT, ...(changes === undefined ? [] : [changes])];
			const client = await NbdClient.connect({unix: socket}, name, {metaContexts, signal});
			disks.push({copy, client, pieceBytes, changes});
		}
	} catch (error) {
		await close();
		throw error;
	}
	return {disks, close};
}

async function startServer(qmp: QmpConnection, socket: string): Promise<string> {
	try {
		await qmp.execute('nbd-server-start', {addr: {type: 'unix', data: {path: socket}}});
		return socket;
	} catch (cause) {
		if (!(cause instanceof QmpCommandError)) throw cause;
		throw new QuiesceError('REFUSED', `QEMU cannot export to us: ${cause.message}`, {
			cause,
			hint: 'QEMU has one NBD server. If another program uses it, wait for that to end; or use `quiesce export`, which needs none.',
		});
	}
}

async function addExport({vm, run, chosen}: CopyTask, copy: DiskCopy): Promise<void> {
	const disk = viewedDisk({run, chosen}, copy);
	const node = accessTo(run.id, disk);
	await vm.qmp.execute('block-export-add', {
		...{'type': 'nbd', 'id': objectName(run.id, disk.name, 'export'), 'node-name': node},
		...{name: disk.name, writable: false},
		...(copy.parent && {bitmaps: [{node, name: objectName(run.id, disk.name, 'changes')}]}),
	});
}
