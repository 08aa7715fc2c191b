import path from 'node:path';
import {asError, QuiesceError} from '../../errors.ts';
import {freeSocket} from '../../host/free-socket.ts';
import {ZERO_CONTEXT} from '../../images/cluster-runs.ts';
import type {NbdExport} from '../../nbd/export.ts';
import {passOn} from '../../nbd/pass-on.ts';
import {type NbdServer, serveNbd} from '../../nbd/server.ts';
import {nbdUri} from '../../nbd/uri.ts';
import type {CopyTask} from '../copy-task.ts';
import {openReaders} from '../open-readers.ts';
import type {DiskCopy} from '../plan-copies.ts';
import type {ExposedDisk, ExposeRequest} from './expose-messages.ts';

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
	const {request, run, copies} = task;
	const {listen = {unix: path.join(run.folder, 'nbd.sock')}, tls} = request;
	const readers = await openReaders(task);
	let server: NbdServer;
	try {
		const shown = new Map<string, NbdExport>();
		for (const {copy, client, pieceBytes, changes} of readers.disks) {
			const {name} = copy.disk;
			// QEMU's names, by ours: those who read know a point and no run.
			const contexts = new Map([[ZERO_CONTEXT, ZERO_CONTEXT]]);
			if (copy.parent && changes !== undefined) contexts.set(changesSince(copy.parent.point), changes);
			shown.set(
				name,
				passOn(client, {
					contexts,
					pieceBytes,
					wholeContexts: new Set([...contexts.keys()].filter(context => context !== ZERO_CONTEXT)),
					failed: cause => {
						failed(lost(name, request, cause));
						return new QuiesceError('FAILED', 'the disk cannot be read as it was at the cut', {cause});
					},
				}),
			);
		}
		if ('unix' in listen) await freeSocket(listen.unix);
		server = await serveNbd(listen, shown, {...(tls && {tls: tls.server})}).catch((cause: unknown) => {
			throw new QuiesceError('FAILED', `cannot listen for NBD clients: ${asError(cause).message}`, {cause});
		});
	} catch (error) {
		await readers.close();
		throw error;
	}
	return {
		disks: copies.map(copy => exposedDisk(copy, nbdUri(server.address, copy.disk.name, tls))),
		close: async () => {
			await server.close();
			await readers.close();
		},
	};
}

function changesSince(point: string): string {
	return `qemu:dirty-bitmap:${point}`;
}

function exposedDisk({disk: {name, medium}, parent, reason}: DiskCopy, uri: string): ExposedDisk {
	const changes = parent ? changesSince(parent.point) : null;
	return {
		...{disk: name, uri, sizeBytes: medium.virtualSize, changes},
		contexts: [ZERO_CONTEXT, ...(changes === null ? [] : [changes])],
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
