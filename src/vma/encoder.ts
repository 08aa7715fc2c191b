import {QuiesceError} from '../errors.ts';
import {checksumOf, maskOf, storedParts} from './blocks.ts';
import {ClusterSet} from './cluster-set.ts';
import {emptyExtentHeader, EXTENT_HEADER_BYTES, MAX_ENTRIES, putEntry, sealExtentHeader} from './extent.ts';
import {BLOCK_BYTES, blocksIn, CLUSTER_BYTES, clusterLength, clustersOf} from './geometry.ts';
import {encodeHeader, uuidBytes, type VmaDevice, type VmaHeader} from './header.ts';

/** An extent as it is to be written. */
export interface EncodedExtent {
	/** The first is the header. The others are parts of what was added, and must not be changed until they are written. */
	readonly pieces: readonly Buffer[];
	readonly bytes: number;
	/** Of memory, for as long as the pieces are needed: the clusters of which they are parts. */
	readonly holdsBytes: number;
	/** One for each entry, if they are wanted. */
	readonly checksums: readonly number[];
}

/**
 * Makes an archive of clusters that come in any order. There is an open extent for each device: some older readers go wrong
 * where an extent has clusters of two. What an open extent holds on to is less than 4 MiB; nothing is copied.
 */
export class VmaEncoder {
	/** Comes first in the archive. */
	readonly header: Buffer;
	readonly #devices = new Map<number, OpenDevice>();
	readonly #uuid: Buffer;
	readonly #checksums: 'make' | 'none';

	constructor(header: VmaHeader, checksums: 'make' | 'none') {
		this.header = encodeHeader(header);
		this.#uuid = uuidBytes(header.uuid);
		this.#checksums = checksums;
		for (const device of header.devices) {
			this.#devices.set(device.id, {device, seen: new ClusterSet(clustersOf(device.sizeBytes)), extent: undefined});
		}
	}

	/** Whole clusters side by side, the device's last one up to its end. Yields the extents that became full. */
	*add(deviceId: number, offset: number, data: Buffer): Generator<EncodedExtent, void, void> {
		const device = this.#deviceAt(deviceId, offset, data.length);
		for (let at = 0; at < data.length; at += CLUSTER_BYTES) {
			const cluster = data.subarray(at, at + CLUSTER_BYTES);
			const mask = maskOf(cluster);
			const extent = this.#open(device, (offset + at) / CLUSTER_BYTES, mask);
			if (mask !== 0) this.#store(extent, [...storedParts(cluster, mask)], mask);
			if (extent.entries === MAX_ENTRIES) yield this.#seal(device);
		}
	}

	/** The same for zeroes. */
	*addZeroes(deviceId: number, offset: number, length: number): Generator<EncodedExtent, void, void> {
		const device = this.#deviceAt(deviceId, offset, length);
		for (let at = 0; at < length; at += CLUSTER_BYTES) {
			const extent = this.#open(device, (offset + at) / CLUSTER_BYTES, 0);
			if (extent.entries === MAX_ENTRIES) yield this.#seal(device);
		}
	}

	/** The rest. Throws if there are clusters that nobody added: they may be anything but zeroes. */
	finish(): EncodedExtent[] {
		for (const {device, seen} of this.#devices.values()) {
			const missing = seen.firstMissing();
			if (missing === undefined) continue;
			const count = seen.clusters - seen.size;
			throw new QuiesceError(
				'FAILED',
				`the archive is incomplete: ${count} of the ${seen.clusters} clusters of ${device.name} never came, ` +
					`the first of them at byte ${missing * CLUSTER_BYTES}`,
			);
		}
		return this.flush();
	}

	/** What was begun, as it is. */
	flush(): EncodedExtent[] {
		return [...this.#devices.values()].filter(({extent}) => extent).map(device => this.#seal(device));
	}

	#deviceAt(id: number, offset: number, length: number): OpenDevice {
		const open = this.#devices.get(id);
		if (!open) throw new QuiesceError('FAILED', `the archive has no device with the number ${id}`);
		const {name, sizeBytes} = open.device;
		const end = offset + length;
		if (offset < 0 || end > sizeBytes) {
			throw new QuiesceError('FAILED', `bytes ${offset} to ${end} are not all in ${name}, which has ${sizeBytes}`);
		}
		if (offset % CLUSTER_BYTES !== 0 || (end % CLUSTER_BYTES !== 0 && end !== sizeBytes)) {
			throw new QuiesceError('FAILED', `bytes ${offset} to ${end} of ${name} are not whole clusters of 64 KiB`);
		}
		return open;
	}

	#open(open: OpenDevice, cluster: number, mask: number): OpenExtent {
		const {device, seen} = open;
		if (!seen.add(cluster)) {
			const at = cluster * CLUSTER_BYTES;
			const bytes = clusterLength(cluster, device.sizeBytes);
			throw new QuiesceError('FAILED', `the ${bytes} bytes of ${device.name} at ${at} came twice`);
		}
		open.extent ??= {header: emptyExtentHeader(this.#uuid), entries: 0, stored: 0, blocks: 0, parts: [], checksums: []};
		const {extent} = open;
		putEntry(extent.header, extent.entries++, {deviceId: device.id, cluster, mask});
		if (mask === 0) extent.checksums.push(0);
		return extent;
	}

	#store(extent: OpenExtent, parts: readonly Buffer[], mask: number): void {
		extent.stored++;
		extent.blocks += blocksIn(mask);
		extent.checksums.push(this.#checksums === 'make' ? checksumOf(parts) : 0);
		for (const part of parts) append(extent.parts, part);
	}

	#seal(open: OpenDevice): EncodedExtent {
		const {extent} = open;
		if (!extent) throw new Error('there is no extent to seal');
		open.extent = undefined;
		const {header, blocks, stored, parts, checksums} = extent;
		sealExtentHeader(header, blocks);
		return {
			pieces: [header, ...parts],
			bytes: EXTENT_HEADER_BYTES + blocks * BLOCK_BYTES,
			holdsBytes: EXTENT_HEADER_BYTES + stored * CLUSTER_BYTES,
			checksums,
		};
	}
}

interface OpenDevice {
	readonly device: VmaDevice;
	readonly seen: ClusterSet;
	extent: OpenExtent | undefined;
}

interface OpenExtent {
	readonly header: Buffer;
	readonly parts: Buffer[];
	readonly checksums: number[];
	entries: number;
	/** Clusters that are not all zeroes. */
	stored: number;
	blocks: number;
}

/** Clusters that came side by side in one buffer are written as one. */
function append(parts: Buffer[], part: Buffer): void {
	const last = parts.at(-1);
	if (last?.buffer === part.buffer && last.byteOffset + last.length === part.byteOffset) {
		parts[parts.length - 1] = Buffer.from(last.buffer, last.byteOffset, last.length + part.length);
	} else {
		parts.push(part);
	}
}
