import type {BlockGraph} from '../block/graph.ts';
import type {QmpConnection} from '../qmp/connection.ts';

/** A disk whose image has an internal snapshot of a name in itself. */
export interface HoldingDisk {
	readonly disk: string;
	readonly node: string;
}

export function holdersOf({disks}: BlockGraph, snapshot: string): readonly HoldingDisk[] {
	return disks.flatMap(({name, medium}) =>
		medium?.chain[0].snapshots.some(one => one.name === snapshot) === true ? [{disk: name, node: medium.node}] : [],
	);
}

/** One disk after the other: QEMU has no transaction for it. */
export async function deleteInternal(qmp: QmpConnection, holders: readonly HoldingDisk[], name: string): Promise<void> {
	for (const {node} of holders) await qmp.execute('blockdev-snapshot-delete-internal-sync', {device: node, name});
}
