import type {BlockGraph} from '../block/graph.ts';
import {objectName} from '../block/names.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {VmState} from '../snapshots/manifest.ts';

/** A disk whose image has an internal snapshot of a name in itself. */
export interface HoldingDisk {
	readonly disk: string;
	readonly node: string;
	/** Of RAM and devices; 0 for the disk alone. */
	readonly memoryBytes: number;
}

/** QEMU's job that saves or loads memory inside images. */
export function insideJob(run: string): string {
	return objectName(run, 'memory', 'job');
}

export function holdersOf({disks}: BlockGraph, snapshot: string): readonly HoldingDisk[] {
	return disks.flatMap(({name, medium}) => {
		const held = medium?.chain[0].snapshots.find(one => one.name === snapshot);
		return medium && held ? [{disk: name, node: medium.node, memoryBytes: held.memoryBytes}] : [];
	});
}

/** Where QEMU has put the RAM and the devices. */
export function vmStateIn(holders: readonly Pick<HoldingDisk, 'disk' | 'memoryBytes'>[]): VmState | undefined {
	const holder = holders.find(({memoryBytes}) => memoryBytes > 0);
	return holder && {disk: holder.disk, bytes: holder.memoryBytes};
}

/** One disk after the other: QEMU has no transaction for it. */
export async function deleteInternal(qmp: QmpConnection, holders: readonly HoldingDisk[], name: string): Promise<void> {
	for (const {node} of holders) await qmp.execute('blockdev-snapshot-delete-internal-sync', {device: node, name});
}
