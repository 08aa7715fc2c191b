import {ZERO_CONTEXT} from '../../images/cluster-runs.ts';
import {NbdClient} from '../../nbd/client.ts';
import type {NbdExport} from '../../nbd/export.ts';
import {type PointChoice, servePoint} from '../archive/open-point.ts';
import type {ServedSource} from './served-source.ts';

/** The disks of a point, which is checked first. Its files are opened read-only, by a storage daemon. */
export async function openServedPoint(
	choice: PointChoice,
	progress: {readonly signal: AbortSignal; readonly onProgress: (bytesRead: number, bytesTotal: number) => void},
): Promise<ServedSource> {
	const served = await servePoint(choice, progress);
	const clients: NbdClient[] = [];
	return {
		disks: served.disks.map(({disk: {name, sizeBytes}, exportName}) => ({name, sizeBytes, exportName})),
		died: served.died,
		openSocket: () => Promise.resolve(served.socket),
		openExports: async () => {
			const exports: NbdExport[] = [];
			for (const {exportName} of served.disks) {
				const client = await NbdClient.connect({unix: served.socket}, exportName, {metaContexts: [ZERO_CONTEXT]});
				clients.push(client);
				exports.push(exportOf(client));
			}
			return exports;
		},
		[Symbol.asyncDispose]: async () => {
			for (const client of clients) await client.close();
			await served[Symbol.asyncDispose]();
		},
	};
}

/** Passes on what another server shows. */
function exportOf(client: NbdClient): NbdExport {
	return {
		sizeBytes: client.sizeBytes,
		connections: 'coherent',
		read: async (offset, into) => {
			await client.read(offset, into.length, into);
		},
		contexts: [ZERO_CONTEXT],
		blockStatus: async (context, offset, length, limit) =>
			(await client.blockStatus(offset, length)).get(context)?.slice(0, limit) ?? [],
	};
}
