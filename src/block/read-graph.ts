import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import {readDeviceFacts} from './devices.ts';
import {BlockGraphError} from './errors.ts';
import {type BackendReply, type BlockGraph, type BlockReplies, buildBlockGraph, type DeviceFacts} from './graph.ts';

const ATTEMPTS = 3;

type Monitor = Pick<QmpConnection, 'execute'>;

/** A disk of a VM that is off: there is no device, and whoever has opened its image says of what disk it is. */
export interface DetachedDisk {
	/** As {@link BlockGraph} calls it while the VM is on. */
	readonly name: string;
	readonly deviceType: string | undefined;
	/** That which stands on its nodes in the place of a device, so that it shows what the disk lies on; undefined if it was not opened. */
	readonly exportId: string | undefined;
}

/**
 * Asks QEMU for its disks and nodes. No one command tells all, so that a job of somebody else may end between two
 * answers: what does not fit together is asked again, before it counts as {@link BlockGraphError}.
 */
export async function readBlockGraph(
	qmp: Monitor,
	schema: QmpSchema,
	detached?: readonly DetachedDisk[],
): Promise<BlockGraph> {
	for (let attempt = 1; ; attempt++) {
		const replies = await readReplies(qmp, schema, detached);
		try {
			return buildBlockGraph(replies);
		} catch (error) {
			if (!(error instanceof BlockGraphError) || attempt === ATTEMPTS) throw error;
		}
	}
}

async function readReplies(
	qmp: Monitor,
	schema: QmpSchema,
	detached: readonly DetachedDisk[] | undefined,
): Promise<BlockReplies> {
	// Sent at once, so that as little as possible happens between them.
	const [backends, nodes, debugGraph] = await Promise.all([
		detached ? exportedBackends(qmp, detached) : qmp.execute('query-block'),
		qmp.execute('query-named-block-nodes', {flat: true}),
		schema.hasReturn('query-named-block-nodes', 'children') ? undefined : qmp.execute('x-debug-query-block-graph'),
	]);
	const devices = detached ? detached.map(factsOf) : await readAllDeviceFacts(qmp, backends);
	return {backends, nodes, debugGraph, devices: new Map(devices)};
}

async function readAllDeviceFacts(
	qmp: Monitor,
	backends: readonly BackendReply[],
): Promise<(readonly [string, DeviceFacts])[]> {
	const qdevs = backends.flatMap(({qdev}) => (qdev === undefined ? [] : [qdev]));
	return Promise.all(qdevs.map(async qdev => [qdev, await readDeviceFacts(qmp, qdev)] as const));
}

async function exportedBackends(qmp: Monitor, detached: readonly DetachedDisk[]): Promise<BackendReply[]> {
	const exported = await qmp.execute('query-block-exports');
	return detached.map(({name, exportId}) => {
		const root = exported.find(({id}) => id === exportId);
		return {device: '', qdev: name, removable: false, ...(root && {inserted: {'node-name': root['node-name']}})};
	});
}

function factsOf({name, deviceType}: DetachedDisk): readonly [string, DeviceFacts] {
	return [name, {type: deviceType}];
}
