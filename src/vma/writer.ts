import {QuiesceError} from '../errors.ts';
import {type EncodedExtent, VmaEncoder} from './encoder.ts';
import type {VmaHeader} from './header.ts';
import {VmaIndexEncoder} from './index-encoder.ts';
import type {VmaOutput} from './output.ts';
import {OutputQueue} from './output-queue.ts';

/** What may be held before those who bring more have to wait. */
const MAX_WAITING_BYTES = 8 * 1024 * 1024;

export interface VmaWriterOptions {
	readonly header: VmaHeader;
	/** Where the archive goes. */
	readonly output: VmaOutput;
	/** Where its index goes, if one is wanted. */
	readonly index?: VmaOutput | undefined;
}

export interface WrittenVma {
	readonly bytes: number;
}

/**
 * Writes an archive of clusters that come in any order, and as many at a time as their senders like. Nothing is copied: data is
 * its sender's until it is written, and so is the memory for it. An extent ends when it is full, and when there is nothing else
 * to write: so nobody waits for what others may bring later. Once something has failed everything fails, and what is written is no archive.
 */
export class VmaWriter {
	readonly #encoder: VmaEncoder;
	readonly #index: VmaIndexEncoder | undefined;
	readonly #outputs: Pick<VmaWriterOptions, 'output' | 'index'>;
	readonly #queue = new OutputQueue(MAX_WAITING_BYTES, () => {
		this.#flush();
	});
	/** Of those whose data is in extents that are not ended: resolved once these are written. */
	#batch = Promise.withResolvers<undefined>();
	/** Whether there are any. Zeroes are no reason to end an extent. */
	#isAwaited = false;
	#state: 'open' | 'finished' = 'open';
	#bytes = 0;

	/** Begins to write at once. Throws what the format cannot hold. */
	constructor({header, output, index}: VmaWriterOptions) {
		this.#encoder = new VmaEncoder(header, index ? 'make' : 'none');
		this.#outputs = {output, index};
		if (index) this.#index = new VmaIndexEncoder(header, this.#encoder.header);
		this.#send([this.#encoder.header], this.#encoder.header.length, this.#encoder.header.length);
		this.#sendIndex(this.#index?.begin());
	}

	/**
	 * Takes whole clusters side by side, the device's last one up to its end. Resolves once they are written, and not before may the
	 * data be changed.
	 */
	async write(deviceId: number, offset: number, data: Buffer): Promise<void> {
		await this.#take(() => this.#encoder.add(deviceId, offset, data));
		const {promise} = this.#batch;
		this.#isAwaited = true;
		this.#queue.start();
		await Promise.race([promise, this.#queue.failed]);
		// Throws what has failed.
		await this.#queue.room();
	}

	/** The same for clusters that hold nothing but zeroes; resolves when more can be brought. */
	async writeZeroes(deviceId: number, offset: number, length: number): Promise<void> {
		await this.#take(() => this.#encoder.addZeroes(deviceId, offset, length));
	}

	/** Writes the rest, and resolves once all is written. Throws if clusters are missing. */
	async finish(): Promise<WrittenVma> {
		await this.#take(() => this.#encoder.finish());
		this.#state = 'finished';
		this.#sendIndex(this.#index?.end(this.#bytes));
		await this.#queue.drained();
		return {bytes: this.#bytes};
	}

	/** Nothing more is written, and whoever waits gets the reason, also where the output hangs. What is written is no archive. */
	fail(reason: Error): void {
		this.#queue.fail(reason);
	}

	/** Nothing waits to be written: what there is of extents goes out. */
	#flush(): void {
		if (!this.#isAwaited) return;
		this.#isAwaited = false;
		const batch = this.#batch;
		this.#batch = Promise.withResolvers();
		const written = (): void => {
			batch.resolve(undefined);
		};
		const extents = this.#encoder.flush();
		// All that was brought is in extents that were full, and written by now.
		if (extents.length === 0) written();
		for (const [index, extent] of extents.entries()) {
			this.#sendExtent(extent, index === extents.length - 1 ? written : undefined);
		}
	}

	async #take(encode: () => Iterable<EncodedExtent>): Promise<void> {
		await this.#queue.room();
		if (this.#state === 'finished') throw new QuiesceError('FAILED', 'the archive is finished and takes no more');
		try {
			for (const extent of encode()) {
				this.#sendExtent(extent);
				if (this.#queue.isFull) await this.#queue.room();
			}
		} catch (error) {
			this.#queue.fail(error);
			throw error;
		}
	}

	#sendExtent({pieces, bytes, holdsBytes, checksums}: EncodedExtent, written?: () => void): void {
		this.#send(pieces, bytes, holdsBytes, written);
		const [header] = pieces;
		if (header) this.#sendIndex(this.#index?.add(header, checksums));
	}

	#send(pieces: readonly Buffer[], bytes: number, holdsBytes: number, written?: () => void): void {
		this.#bytes += bytes;
		this.#queue.add(this.#outputs.output, pieces, holdsBytes, written);
	}

	#sendIndex(lines: Buffer | undefined): void {
		if (lines && this.#outputs.index) this.#queue.add(this.#outputs.index, [lines], lines.length);
	}
}
