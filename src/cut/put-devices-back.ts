import {devicePath} from '../block/devices.ts';
import type {BlockGraph, Disk} from '../block/graph.ts';
import {readBlockGraph} from '../block/read-graph.ts';
import {QuiesceError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
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
	try {
		await moveGates(
			qmp,
			covered.filter(({over}) => over.length > 1).map(({over: [gate], below}) => ({gate, to: below})),
		);
		// Never to the node that a device has already: that would abort QEMU (block.c bdrv_replace_child_noperm, to 11.1).
		for (const {disk, below} of covered) {
			await qmp.execute('qom-set', {path: devicePath(disk.qdev ?? ''), property: 'drive', value: below});
		}
	} catch (cause) {
		if (!(cause instanceof QmpCommandError)) throw cause;
		const names = covered.map(({disk}) => disk.name).join(', ');
		throw new QuiesceError('FAILED', `cannot take our nodes from above ${names}: ${cause.message}`, {
			cause,
			hint: 'Another program may have a job or an export on one of them; end that, and try again.',
		});
	}
	requireTogether(await readBlockGraph(qmp, schema), covered);
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

/** A device that is not on what our nodes are above was moved by us while another program exchanged its disk. */
function requireTogether({disks, nodes}: BlockGraph, covered: readonly CoveredDisk[]): void {
	for (const {disk, over} of covered) {
		const left = nodes.get(over.at(-1) ?? '')?.children.find(({role}) => role === 'file')?.node;
		const root = disks.find(({qdev}) => qdev === disk.qdev)?.medium?.rootNode;
		if (left === root || left === undefined || root === undefined) continue;
		throw new QuiesceError(
			'FAILED',
			`${disk.name} is on ${root}, but another program has just put ${left} in its place`,
			{
				hint: `If query-block still says so, pause the VM, and put the device on ${left} with qom-set.`,
			},
		);
	}
}
