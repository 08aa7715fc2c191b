import {QuiesceError} from '../errors.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';
import type {DiskChain, VmChains} from './disk-chains.ts';
import {bytesOf, type MergePlan} from './merge-plan.ts';
import {planCommits} from './plan-commit.ts';
import {planStreams} from './plan-stream.ts';

/**
 * How each disk of an external snapshot is to be rid of it: by a commit of its overlay into its base, or by a stream of the
 * base into the overlay, whichever moves less. A stream can only go into the image that the guest writes to. A disk whose
 * images have been merged already has no plan.
 */
export async function planDeletion(vm: VmChains, {name, manifest}: Snapshot): Promise<MergePlan[]> {
	const plans: MergePlan[] = [];
	for (const {name: disk, base, overlay} of manifest.disks) {
		const chain = vm.chains.find(one => one.disk.name === disk);
		const at = chain?.layers.findIndex(({file}) => file === overlay?.file) ?? -1;
		if (!chain || !overlay || at < 0 || overlay.file === base.file) continue;
		if (chain.layers[at + 1]?.file !== base.file) {
			throw new QuiesceError('REFUSED', `${disk}: ${overlay.file} does not lie directly on ${base.file} any more`, {
				hint: `Another program has changed the chain. Merge by hand, with \`quiesce commit\`, and remove the folder of ${name}.`,
			});
		}
		plans.push(...(await planDisk(vm, chain, at)));
	}
	return plans;
}

async function planDisk(vm: VmChains, {disk, layers}: DiskChain, at: number): Promise<readonly MergePlan[]> {
	const [overlay, base] = layers.slice(at);
	const below = layers[at + 2];
	if (!overlay || !base) throw new Error('it lies on something');
	const [up, down] = [bytesOf([base]), bytesOf([overlay])];
	const isLess = at === 0 && up !== undefined && down !== undefined && up < down;
	return isLess
		? planStreams(vm, {disks: [disk.name], base: below?.node.name})
		: planCommits(vm, {disks: [disk.name], top: overlay.node.name, base: base.node.name});
}
