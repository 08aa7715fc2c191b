import type {VmaExtent} from './extent.ts';
import {EXTENT_HEADER_BYTES} from './extent.ts';
import {BLOCK_BYTES, blocksIn} from './geometry.ts';

const PAGE_CLUSTERS = 1024;

/** Where the data of a cluster is. */
export interface StoredCluster {
	/** Of its first stored block, in the archive. */
	readonly offset: number;
	readonly mask: number;
	/** Undefined where there is no index. */
	readonly checksum: number | undefined;
}

/** Where the clusters of an archive are. Takes 14 bytes for each that is not zero: 224 MiB for 1 TiB of data. */
export class ClusterMap {
	/** By device and number. */
	readonly #pages = new Map<number, Map<number, Page>>();

	add(extent: VmaExtent, checksums?: readonly number[]): void {
		let offset = extent.offset + EXTENT_HEADER_BYTES;
		for (const [index, {deviceId, cluster, mask}] of extent.entries.entries()) {
			if (mask === 0) continue;
			const page = this.#page(deviceId, Math.floor(cluster / PAGE_CLUSTERS));
			const at = cluster % PAGE_CLUSTERS;
			page.offsets[at] = offset;
			page.masks[at] = mask;
			const checksum = checksums?.[index];
			if (checksum !== undefined) {
				page.checksums ??= new Uint32Array(PAGE_CLUSTERS);
				page.checksums[at] = checksum;
			}
			offset += blocksIn(mask) * BLOCK_BYTES;
		}
	}

	/** Undefined where nothing is stored: zeroes. */
	find(deviceId: number, cluster: number): StoredCluster | undefined {
		const page = this.#pages.get(deviceId)?.get(Math.floor(cluster / PAGE_CLUSTERS));
		const at = cluster % PAGE_CLUSTERS;
		const mask = page?.masks[at] ?? 0;
		if (!page || mask === 0) return undefined;
		return {offset: page.offsets[at] ?? 0, mask, checksum: page.checksums?.[at]};
	}

	#page(deviceId: number, number: number): Page {
		let pages = this.#pages.get(deviceId);
		if (!pages) this.#pages.set(deviceId, (pages = new Map<number, Page>()));
		let page = pages.get(number);
		if (!page) {
			page = {offsets: new Float64Array(PAGE_CLUSTERS), masks: new Uint16Array(PAGE_CLUSTERS), checksums: undefined};
			pages.set(number, page);
		}
		return page;
	}
}

interface Page {
	/** Exact up to 8 PiB. */
	readonly offsets: Float64Array;
	readonly masks: Uint16Array;
	checksums: Uint32Array | undefined;
}
