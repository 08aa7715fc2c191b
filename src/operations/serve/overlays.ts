import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {createImage} from '../../images/qemu-img.ts';
import {StorageDaemon} from '../../images/storage-daemon.ts';
import {fileError} from '../../repository/durable-files.ts';
import type {ServedSource} from './served-source.ts';

export interface ServedOverlays extends AsyncDisposable {
	/** Rejects if the storage daemon ends. Never resolves. */
	readonly died: Promise<never>;
}

/**
 * Serves the disks of a source writable on a Unix socket, by their names. What is written goes to new images in a folder of their own,
 * which lie on the source over NBD: nothing of the source can be written. They are removed at the end.
 */
export async function serveOverlays(
	source: ServedSource,
	socket: string,
	scratch: string | undefined,
): Promise<ServedOverlays> {
	await using undo = new AsyncDisposableStack();
	const parent = scratch ?? os.tmpdir();
	const folder = await fs.mkdtemp(path.join(parent, 'quiesce-overlays-')).catch((error: unknown) => {
		throw fileError('make a folder in', parent, error);
	});
	undo.defer(() => fs.rm(folder, {recursive: true, force: true}));
	const below = await source.openSocket();
	const daemon = await StorageDaemon.start(socket, {whenKilled: 'die', access: 'own-user'});
	undo.defer(async () => {
		await daemon.kill();
		await fs.rm(socket, {force: true});
	});
	for (const {name, sizeBytes, exportName} of source.disks) {
		const image = path.join(folder, `${exportName}.qcow2`);
		await createImage(image, {sizeBytes, compression: 'none'});
		await daemon.qmp.execute('blockdev-add', {
			'driver': 'nbd',
			'node-name': `${exportName}-below`,
			'read-only': true,
			'server': {type: 'unix', path: below},
			'export': exportName,
		});
		await daemon.qmp.execute('blockdev-add', {
			'driver': 'qcow2',
			'node-name': exportName,
			'discard': 'unmap',
			// It is thrown away, whatever happens.
			'cache': {'no-flush': true},
			'backing': `${exportName}-below`,
			'file': {driver: 'file', filename: image},
		});
		await daemon.qmp.execute('block-export-add', {
			'type': 'nbd',
			'id': exportName,
			'node-name': exportName,
			name,
			'writable': true,
		});
	}
	const owned = undo.move();
	return {died: daemon.died, [Symbol.asyncDispose]: () => owned.disposeAsync()};
}
