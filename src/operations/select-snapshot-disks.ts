import type {BlockGraph} from '../block/graph.ts';
import {jobsOn} from '../block/jobs-on.ts';
import {QuiesceError} from '../errors.ts';
import type {QmpDebugGraph} from '../qmp/schema.ts';
import {type DiskSelection, type DiskWithMedium, type SelectedDisks, selectDisks} from './select-disks.ts';

/** Every reader opens all images of a chain, and each costs every read of the guest something. */
const MAX_CHAIN = 100;

export interface SelectedForSnapshot extends SelectedDisks {
	readonly warnings: readonly string[];
}

/**
 * Which disks a snapshot is to hold. Firmware is left out unless it is asked for by name: QEMU has to be told its format at
 * the next start, which scripts rarely do.
 */
export function selectSnapshotDisks(
	graph: BlockGraph,
	debugGraph: QmpDebugGraph,
	{only, exclude = []}: DiskSelection,
): SelectedForSnapshot {
	const firmware = only
		? []
		: graph.disks
				.filter(({deviceType, medium}) => deviceType?.startsWith('cfi.pflash') === true && medium?.readOnly === false)
				.map(({name}) => name)
				.filter(name => !exclude.includes(name));
	const {disks, skipped} = selectDisks(graph, {only, exclude: [...exclude, ...firmware]});
	for (const disk of disks) {
		const why = whyNoOverlay(disk, graph, debugGraph);
		if (why === undefined) continue;
		throw new QuiesceError('REFUSED', `no snapshot can be taken of ${disk.name}: ${why.reason}`, {
			hint: why.hint ?? `Leave it out with --exclude ${disk.name}.`,
		});
	}
	return {
		disks,
		skipped: skipped.map(one =>
			firmware.includes(one.name) ? {...one, reason: 'it is firmware, which is left out unless --disk names it'} : one,
		),
		warnings: firmware.map(name => `${name} is firmware, and not in the snapshot; --disk ${name} would take it in`),
	};
}

export interface Refusal {
	readonly reason: string;
	readonly hint?: string;
}

/** Why a disk can have no overlay. */
export function whyNoOverlay(disk: DiskWithMedium, graph: BlockGraph, debugGraph: QmpDebugGraph): Refusal | undefined {
	const {name, medium, shared} = disk;
	if (medium.readOnly) return {reason: 'it is read-only: nothing would be written to an overlay'};
	if (shared) return {reason: 'share-rw is on: others would go on to write to the image beneath the overlay'};
	if (medium.encrypted)
		return {reason: 'it is encrypted, and what the guest writes would be in the overlay in the clear'};
	if (!['file', 'host_device'].includes(medium.protocol) || medium.filename.startsWith('json:')) {
		return {reason: `it lies in no file or block device of this host (${medium.filename})`};
	}
	const other = graph.disks.find(one => one.name !== name && one.medium?.node === medium.node);
	if (other) return {reason: `${other.name} uses the same node, ${medium.node}`};
	const nodes = new Set([...medium.chain.map(node => node.name), ...medium.filters, medium.rootNode]);
	const [job] = jobsOn(debugGraph, nodes);
	if (job !== undefined) {
		return {reason: `the job ${job} is at work on it`, hint: 'Wait until the job has ended, or cancel it.'};
	}
	if (medium.chain.length >= MAX_CHAIN) {
		return {
			reason: `its chain has ${medium.chain.length} images, which is enough`,
			hint: 'Make it shorter: delete snapshots, or commit or stream some of its images.',
		};
	}
	return undefined;
}
