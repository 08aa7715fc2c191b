import {clustersOf, HASH_BYTES, type HashRecord} from './hash-records.ts';
import {RunMerger} from './merge-runs.ts';

type Content = Buffer | 'zero';

const PAGE_CLUSTERS = 1024;
const ABSENT = 0;
const ZERO = 1;
const HASHED = 2;

/** Clusters of different content. */
interface MixedPage {
	readonly states: Uint8Array;
	/** Of those that are hashed. */
	readonly hashes: Buffer;
}

/**
 * What a chain of images holds, composed from the records of each, the base's first. All of the images have the same size.
 * Takes memory for what differs only: a long run of equal clusters takes next to none.
 */
export class ContentHashes {
	readonly sizeBytes: number;
	readonly clusters: number;
	/** By index; a page of equal content is just that. What has no page is in no image. */
	readonly #pages = new Map<number, Content | MixedPage>();

	private constructor(sizeBytes: number) {
		this.sizeBytes = sizeBytes;
		this.clusters = clustersOf(sizeBytes);
	}

	static empty(sizeBytes: number): ContentHashes {
		return new ContentHashes(sizeBytes);
	}

	/** Lays the records of the next image over what is there. Returns itself. */
	apply(records: Iterable<HashRecord>): this {
		for (const record of records) this.set(record);
		return this;
	}

	/** The hash is copied. */
	set({firstCluster, clusters, content}: HashRecord): void {
		const end = firstCluster + clusters;
		if (end > this.clusters) throw new RangeError(`cluster ${end - 1} of ${this.clusters}`);
		const kept = content === 'zero' || clusters < PAGE_CLUSTERS ? content : Buffer.from(content);
		for (let at = firstCluster; at < end;) {
			const index = Math.floor(at / PAGE_CLUSTERS);
			const from = at - index * PAGE_CLUSTERS;
			const to = Math.min(PAGE_CLUSTERS, end - index * PAGE_CLUSTERS);
			if (to - from === PAGE_CLUSTERS) this.#pages.set(index, kept);
			else if (this.#pages.get(index) !== content) fill(this.#mixed(index), from, to, content);
			at += to - from;
		}
	}

	/** Undefined if no image stores the cluster: in a whole chain it then reads as zeroes. The hash is not to be changed. */
	contentOf(cluster: number): Content | undefined {
		const page = this.#pages.get(Math.floor(cluster / PAGE_CLUSTERS));
		if (page === undefined || page === 'zero' || Buffer.isBuffer(page)) return page;
		return read(page, cluster % PAGE_CLUSTERS);
	}

	/** What a cluster of the whole chain reads as. */
	hashOf(cluster: number): Content {
		return this.contentOf(cluster) ?? 'zero';
	}

	/**
	 * All of it in order, neighbours with the same content as one: the records of the one image that the chain could be
	 * merged to. An image without a backing file need not say what is zero.
	 */
	*records(options: {readonly zeroes?: 'record' | 'omit'} = {}): Generator<HashRecord> {
		const merger = new RunMerger();
		for (const record of this.#pieces(0, this.clusters)) {
			if (record.content === 'zero' && options.zeroes === 'omit') continue;
			const complete = merger.add(record);
			if (complete) yield complete;
		}
		const last = merger.end();
		if (last) yield last;
	}

	/** What is not zero among these clusters, in order. */
	*hashed(firstCluster: number, clusters: number): Generator<HashRecord> {
		for (const record of this.#pieces(firstCluster, clusters)) if (record.content !== 'zero') yield record;
	}

	/** A record a page of equal content, and a cluster of any other. */
	*#pieces(firstCluster: number, clusters: number): Generator<HashRecord> {
		const end = firstCluster + clusters;
		for (let at = firstCluster; at < end;) {
			const index = Math.floor(at / PAGE_CLUSTERS);
			const next = Math.min(end, (index + 1) * PAGE_CLUSTERS);
			const page = this.#pages.get(index);
			if (page === 'zero' || Buffer.isBuffer(page)) {
				yield {firstCluster: at, clusters: next - at, content: page};
			} else if (page) {
				for (let cluster = at; cluster < next; cluster++) {
					const content = read(page, cluster % PAGE_CLUSTERS);
					if (content) yield {firstCluster: cluster, clusters: 1, content};
				}
			}
			at = next;
		}
	}

	#mixed(index: number): MixedPage {
		const page = this.#pages.get(index);
		if (page !== undefined && page !== 'zero' && !Buffer.isBuffer(page)) return page;
		const mixed = {states: new Uint8Array(PAGE_CLUSTERS), hashes: Buffer.alloc(PAGE_CLUSTERS * HASH_BYTES)};
		if (page) fill(mixed, 0, PAGE_CLUSTERS, page);
		this.#pages.set(index, mixed);
		return mixed;
	}
}

function fill({states, hashes}: MixedPage, from: number, to: number, content: Content): void {
	states.fill(content === 'zero' ? ZERO : HASHED, from, to);
	if (content !== 'zero') hashes.fill(content, from * HASH_BYTES, to * HASH_BYTES);
}

function read({states, hashes}: MixedPage, at: number): Content | undefined {
	if (states[at] === ABSENT) return undefined;
	return states[at] === ZERO ? 'zero' : hashes.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES);
}
