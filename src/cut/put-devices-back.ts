import {devicePath} from '../block/devices.ts';
import type {BlockGraph, Disk} from '../block/graph.ts';
import {readBlockGraph} from '../block/read-graph.ts';
import {QuiesceError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import {moveGates} from './gates.ts';

/**
 * Takes our nodes from between devices and disks: each device goes back to the node that is now under ours, which may be
 * another than the one it had before, where somebody has taken a snapshot meanwhile. Our nodes stay, without a use.
 * Nothing else may be above a filter of ours by then, or it shares its disk with nobody.
 */
export async function putDevicesBack(
	qmp: QmpConnection,
	schema: QmpSchema,
	isOurs: (node: string) => boolean,
): Promise<void> {
	const graph = await readBlockGraph(qmp, schema);
	const covered = disksUnder(graph, isOurs);
	if (covered.length === 0) return;
	const gates = covered.filter(({over}) => over.length > 1).map(({over: [gate], below}) => ({gate, to: below}));
	if (gates.length > 0) await moveGates(qmp, gates);
	// Never to the node that a device has already: that would abort QEMU (block.c bdrv_replace_child_noperm, to 11.1).
	for (const {disk, below} of covered) {
		await qmp.execute('qom-set', {path: devicePath(disk.qdev ?? ''), property: 'drive', value: below});
	}
	requireUnmoved(await readBlockGraph(qmp, schema), covered);
}

interface CoveredDisk {
	readonly disk: Disk;
	/** Ours, from the one that the device is on down. */
	readonly over: readonly [string, ...string[]];
	/** The first node under them that is not ours. */
	readonly below: string;
}

function disksUnder({disks}: BlockGraph, isOurs: (node: string) => boolean): CoveredDisk[] {
	return disks.flatMap(disk => {
		const {medium, qdev} = disk;
		if (!medium || qdev === undefined) return [];
		const path = [...medium.filters, medium.node];
		const depth = path.findIndex(node => !isOurs(node));
		const [first, ...more] = path.slice(0, Math.max(0, depth));
		return first === undefined ? [] : [{disk, over: [first, ...more], below: path[depth] ?? ''}];
	});
}

/** Writes that go past a snapshot which somebody took at the wrong moment would be lost. */
function requireUnmoved({nodes}: BlockGraph, covered: readonly CoveredDisk[]): void {
	for (const {disk, below, over} of covered) {
		const now = nodes.get(over.at(-1) ?? '')?.children.find(({role}) => role === 'file')?.node;
		if (now === below || now === undefined) continue;
		throw new QuiesceError(
			'FAILED',
			`the node under ${disk.name} changed from ${below} to ${now} at the wrong moment`,
			{
				hint: `Another program works on this disk. Pause the VM, and put it on ${now} with qom-set.`,
			},
		);
	}
}
