import {ClusterSet} from './cluster-set.ts';
import {VmaDamagedError} from './errors.ts';
import type {VmaEntry} from './extent.ts';
import {blocksWithin, clusterLength, clustersOf, FULL_MASK, VMSTATE} from './geometry.ts';
import type {VmaDevice} from './header.ts';

/** Sees to it that each cluster of each device is in an archive, and once. */
export class ClusterAccount {
	/** By number. */
	readonly #devices = new Map<number, {readonly device: VmaDevice; readonly seen: ClusterSet}>();
	/** Of the stream of RAM. */
	#nextOfVmstate = 0;

	constructor(devices: readonly VmaDevice[]) {
		for (const device of devices) {
			const clusters = device.name === VMSTATE ? 0 : clustersOf(device.sizeBytes);
			this.#devices.set(device.id, {device, seen: new ClusterSet(clusters)});
		}
	}

	/** Takes an entry that stands at `offset`. Throws if it should not be there. */
	take({deviceId, cluster, mask}: VmaEntry, offset: number): VmaDevice {
		const known = this.#devices.get(deviceId);
		if (!known) throw new VmaDamagedError(offset, `expected a device of the header, found number ${deviceId}`);
		const {device, seen} = known;
		if (device.name === VMSTATE) {
			if (cluster !== this.#nextOfVmstate) {
				throw new VmaDamagedError(offset, `expected cluster ${this.#nextOfVmstate} of ${VMSTATE}, found ${cluster}`);
			}
			this.#nextOfVmstate++;
			return device;
		}
		if (cluster >= seen.clusters) {
			throw new VmaDamagedError(
				offset,
				`expected a cluster of the ${seen.clusters} of ${device.name}, found ${cluster}`,
			);
		}
		if (mask !== 0 && mask !== FULL_MASK) refuseBeyond(device, cluster, mask, offset);
		if (!seen.add(cluster)) {
			throw new VmaDamagedError(
				offset,
				`expected a cluster for the first time, found cluster ${cluster} of ${device.name} again`,
			);
		}
		return device;
	}

	/** Throws if a cluster was never taken. The archive ends at `offset`. */
	finish(offset: number): void {
		for (const {device, seen} of this.#devices.values()) {
			const missing = seen.firstMissing();
			if (missing === undefined) continue;
			const more = seen.clusters - seen.size - 1;
			const others = more === 0 ? '' : ` and ${more} more`;
			throw new VmaDamagedError(offset, `expected cluster ${missing} of ${device.name}${others}, found the end`);
		}
	}
}

/** A whole cluster is cut by readers, so it may be stored. Other blocks beyond the end are refused by them. */
function refuseBeyond({name, sizeBytes}: VmaDevice, cluster: number, mask: number, offset: number): void {
	if ((mask & ~blocksWithin(clusterLength(cluster, sizeBytes))) === 0) return;
	throw new VmaDamagedError(offset, `expected no block beyond the end of ${name}, found the mask ${hex(mask)}`);
}

function hex(mask: number): string {
	return `0x${mask.toString(16).padStart(4, '0')}`;
}
