import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError, UnreachableError} from '../qmp/errors.ts';

/**
 * Breaks the connections of nodes, so that requests stuck at a hung server fail and the jobs that wait for them can end.
 * Past QEMU's queue, since its main loop may wait for them too. A node that is gone, or has none, is passed over.
 */
export async function yank(qmp: QmpConnection, nodes: readonly string[]): Promise<void> {
	for (const node of nodes) {
		await qmp
			.executeOutOfBand('yank', {instances: [{'type': 'block-node', 'node-name': node}]})
			.catch((error: unknown) => {
				if (!(error instanceof QmpCommandError || error instanceof UnreachableError)) throw error;
			});
	}
}
