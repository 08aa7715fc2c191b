import path from 'node:path';
import {capabilitiesOf} from '../../block/probe.ts';
import {objectName} from '../../block/names.ts';
import {accessTo, CLUSTER_BYTES} from '../../cut/fleece.ts';
import {asError, QuiesceError} from '../../errors.ts';
import {NbdClient} from '../../nbd/client.ts';
import type {NbdExport} from '../../nbd/export.ts';
import {passOn} from '../../nbd/pass-on.ts';
import {type NbdServer, serveNbd} from '../../nbd/server.ts';
import {nbdUri} from '../../nbd/uri.ts';
import {QmpCommandError} from '../../qmp/errors.ts';
import type {QmpConnection} from '../../qmp/connection.ts';
import type {CopyTask} from '../copy-task.ts';
import {makeExportsFolder} from '../exports-socket.ts';
import type {DiskCopy} from '../plan-copies.ts';
import {viewedDisk} from '../prepare-cut.ts';
import type {ExposedDisk, ExposeRequest} from './expose-messages.ts';

const ALLOCATION = 'base:allocation';

export interface Exports {
	readonly disks: readonly ExposedDisk[];
	/** Ends the readers, and our connections to QEMU. What is inside QEMU goes with the run. */
	close(): Promise<void>;
}

/**
 * After the cut: QEMU shows the disks to us alone, and a server of ours shows them to the readers. So a reader that stalls,
 * breaks the protocol or dies meets us and never QEMU, and what QEMU must not be asked it is not asked, whoever reads.
 */
export async function openExports(
	task: CopyTask & {readonly request: ExposeRequest},
	failed: (error: unknown) => void,
): Promise<Exports> {
	const {request, vm, run, copies, qemuUid} = task;
	const {listen = {unix: path.join(run.folder, 'nbd.sock')}, tls} = request;
	const readsMayBeLong = capabilitiesOf(vm.schema, vm.qmp.version)['snapshot-access-large-reads'].available;
	const inner = await startServer(vm.qmp, await makeExportsFolder(run.folder, qemuUid));
	const clients: NbdClient[] = [];
	const closeClients = async (): Promise<void> => {
		await Promise.all(clients.map(client => client.close()));
	};
	let server: NbdServer;
	try {
		const shown = new Map<string, NbdExport>();
		for (const copy of copies) {
			const {name} = copy.disk;
			await addExport(task, copy);
			const contexts = contextsOf(run.id, copy);
			const client = await NbdClient.connect({unix: inner}, name, {metaContexts: [...contexts.values()]});
			clients.push(client);
			shown.set(
				name,
				passOn(client, {
					contexts,
					pieceBytes: readsMayBeLong ? undefined : CLUSTER_BYTES,
					wholeContexts: new Set([...contexts.keys()].filter(context => context !== ALLOCATION)),
					failed: cause => {
						failed(lost(name, request, cause));
						return new QuiesceError('FAILED', 'the disk cannot be read as it was at the cut', {cause});
					},
				}),
			);
		}
		server = await serveNbd(listen, shown, {...(tls && {tls: tls.server})}).catch((cause: unknown) => {
			throw new QuiesceError('FAILED', `cannot listen for NBD clients: ${asError(cause).message}`, {cause});
		});
	} catch (error) {
		await closeClients();
		throw error;
	}
	return {
		disks: copies.map(copy => exposedDisk(copy, nbdUri(server.address, copy.disk.name, tls))),
		close: async () => {
			await server.close();
			await closeClients();
		},
	};
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

/** QEMU's names, by ours: readers know a point and no run. */
function contextsOf(run: string, {disk: {name}, parent}: DiskCopy): ReadonlyMap<string, string> {
	const contexts = new Map([[ALLOCATION, ALLOCATION]]);
	if (parent) contexts.set(changesSince(parent.point), `qemu:dirty-bitmap:${objectName(run, name, 'changes')}`);
	return contexts;
}

function changesSince(point: string): string {
	return `qemu:dirty-bitmap:${point}`;
}

function exposedDisk({disk: {name, medium}, parent, reason}: DiskCopy, uri: string): ExposedDisk {
	const changes = parent ? changesSince(parent.point) : null;
	return {
		...{disk: name, uri, sizeBytes: medium.virtualSize, changes},
		contexts: [ALLOCATION, ...(changes === null ? [] : [changes])],
		changedBytes: parent?.bytes ?? null,
		reason: parent ? null : reason,
	};
}

function lost(disk: string, {maxStallSeconds = 2}: ExposeRequest, cause: unknown): QuiesceError {
	return new QuiesceError('FAILED', `${disk} cannot be read as it was at the cut any more: ${asError(cause).message}`, {
		cause,
		hint:
			`Scratch that is full, or holds up the guest longer than --max-stall (${maxStallSeconds} s), breaks the view and ` +
			'not the guest. Expose it again, with faster scratch (--scratch).',
	});
}
