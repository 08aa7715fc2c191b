const PAGE_CLUSTERS = 32 * 1024;

/** Which clusters of a device there have been. Takes a bit for each where they come in disorder, and little where in order. */
export class ClusterSet {
	readonly clusters: number;
	/** By number. A page all of which is there is just its count. */
	readonly #pages = new Map<number, Page | 'full'>();
	#size = 0;

	constructor(clusters: number) {
		this.clusters = clusters;
	}

	/** How many there are. */
	get size(): number {
		return this.#size;
	}

	/** False if it was there already. */
	add(cluster: number): boolean {
		const number = Math.floor(cluster / PAGE_CLUSTERS);
		let page = this.#pages.get(number);
		if (page === 'full') return false;
		if (!page) {
			page = {bits: new Uint8Array(PAGE_CLUSTERS / 8), size: 0};
			this.#pages.set(number, page);
		}
		const index = (cluster % PAGE_CLUSTERS) >>> 3;
		const bit = 1 << (cluster & 7);
		const byte = page.bits[index] ?? 0;
		if ((byte & bit) !== 0) return false;
		page.bits[index] = byte | bit;
		page.size++;
		this.#size++;
		if (page.size === PAGE_CLUSTERS) this.#pages.set(number, 'full');
		return true;
	}

	has(cluster: number): boolean {
		const page = this.#pages.get(Math.floor(cluster / PAGE_CLUSTERS));
		if (page === undefined || page === 'full') return page === 'full';
		return ((page.bits[(cluster % PAGE_CLUSTERS) >>> 3] ?? 0) & (1 << (cluster & 7))) !== 0;
	}

	/** The first that is not there. */
	firstMissing(): number | undefined {
		if (this.#size === this.clusters) return undefined;
		for (let cluster = 0; cluster < this.clusters; cluster++) {
			const page = this.#pages.get(Math.floor(cluster / PAGE_CLUSTERS));
			if (page === 'full') cluster += PAGE_CLUSTERS - 1;
			else if (!this.has(cluster)) return cluster;
		}
		return undefined;
	}
}

interface Page {
	readonly bits: Uint8Array;
	size: number;
}
