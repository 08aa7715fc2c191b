import fs from 'node:fs/promises';
import {QuiesceError} from '../errors.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';

/** A server of ours, and one of its exports. */
interface ServedExport {
	/** In words: what it belongs to. */
	readonly of: string;
	readonly socket: string;
	readonly export: string;
}

/** Has the VM's QEMU open an export of ours, as the target of a job. */
export async function addNbdNode(
	qmp: QmpConnection,
	node: string,
	{of, socket, export: exported}: ServedExport,
	instead = '',
): Promise<void> {
	const server = {type: 'unix', path: socket} as const;
	await qmp
		.execute('blockdev-add', {'driver': 'nbd', 'node-name': node, server, 'export': exported})
		.catch((cause: unknown) => {
			if (!(cause instanceof QmpCommandError)) throw cause;
			throw new QuiesceError('REFUSED', `QEMU cannot write to ${of}: ${cause.message}`, {
				cause,
				hint:
					'QEMU must be able to open a socket in the runtime folder: a container or a security module may forbid it.' +
					instead,
			});
		});
}

/** Lets QEMU in where it runs as another user: to this one socket, and to nothing else of ours. */
export async function giveTo(uid: number | undefined, folder: string, socket: string): Promise<void> {
	await fs.chmod(socket, 0o600);
	if (uid === undefined) return;
	await fs.chown(socket, uid, -1);
	await fs.chmod(folder, 0o711);
}
