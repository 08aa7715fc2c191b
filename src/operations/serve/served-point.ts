import {ZERO_CONTEXT} from '../../images/cluster-runs.ts';
import {NbdClient} from '../../nbd/client.ts';
import type {NbdExport} from '../../nbd/export.ts';
import {passOn} from '../../nbd/pass-on.ts';
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
				exports.push(passOn(client, {contexts: new Map([[ZERO_CONTEXT, ZERO_CONTEXT]])}));
			}
			return exports;
		},
		[Symbol.asyncDispose]: async () => {
			for (const client of clients) await client.close();
			await served[Symbol.asyncDispose]();
		},
	};
}
