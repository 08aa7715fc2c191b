import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import {readDeviceFacts} from './devices.ts';
import {BlockGraphError} from './errors.ts';
import {type BlockGraph, type BlockReplies, buildBlockGraph} from './graph.ts';

const ATTEMPTS = 3;

/**
 * Asks QEMU for its disks and nodes. No one command tells all, so that a job of somebody else may end between two
 * answers: what does not fit together is asked again, before it counts as {@link BlockGraphError}.
 */
export async function readBlockGraph(qmp: Pick<QmpConnection, 'execute'>, schema: QmpSchema): Promise<BlockGraph> {
	for (let attempt = 1; ; attempt++) {
		const replies = await readReplies(qmp, schema);
		try {
			return buildBlockGraph(replies);
		} catch (error) {
			if (!(error instanceof BlockGraphError) || attempt === ATTEMPTS) throw error;
		}
	}
}

async function readReplies(qmp: Pick<QmpConnection, 'execute'>, schema: QmpSchema): Promise<BlockReplies> {
	// Sent at once, so that as little as possible happens between them.
	const [backends, nodes, debugGraph] = await Promise.all([
		qmp.execute('query-block'),
		qmp.execute('query-named-block-nodes', {flat: true}),
		schema.hasReturn('query-named-block-nodes', 'children') ? undefined : qmp.execute('x-debug-query-block-graph'),
	]);
	const qdevs = backends.flatMap(({qdev}) => (qdev === undefined ? [] : [qdev]));
	const devices = await Promise.all(qdevs.map(async qdev => [qdev, await readDeviceFacts(qmp, qdev)] as const));
	return {backends, nodes, debugGraph, devices: new Map(devices)};
}
