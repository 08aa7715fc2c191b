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
 * Writes an archive of clusters that come in any order, and as many at a time as their senders like. Holds on to what waits
 * to be written (8 MiB, and what was brought by those who wait) and to one unfinished extent for each device (less than
 * 4 MiB). Once something has failed everything fails, and what is written is no archive.
 */
export class VmaWriter {
	readonly #encoder: VmaEncoder;
	readonly #index: VmaIndexEncoder | undefined;
	readonly #outputs: Pick<VmaWriterOptions, 'output' | 'index'>;
	readonly #queue = new OutputQueue(MAX_WAITING_BYTES);
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
	 * Takes whole clusters side by side, the device's last one up to its end. Resolves when more can be brought. The data must
	 * not be changed afterwards either: it is written with that of other calls, at the latest by {@link finish}.
	 */
	async write(deviceId: number, offset: number, data: Buffer): Promise<void> {
		await this.#take(() => this.#encoder.add(deviceId, offset, data));
	}

	/** The same for clusters that hold nothing but zeroes. */
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

	async #take(encode: () => Iterable<EncodedExtent>): Promise<void> {
		await this.#queue.room();
		if (this.#state === 'finished') throw new QuiesceError('FAILED', 'the archive is finished and takes no more');
		try {
			for (const extent of encode()) {
				this.#send(extent.pieces, extent.bytes, extent.holdsBytes);
				const [header] = extent.pieces;
				if (header) this.#sendIndex(this.#index?.add(header, extent.checksums));
				if (this.#queue.isFull) await this.#queue.room();
			}
		} catch (error) {
			this.#queue.fail(error);
			throw error;
		}
	}

	#send(pieces: readonly Buffer[], bytes: number, holdsBytes: number): void {
		this.#bytes += bytes;
		this.#queue.add(this.#outputs.output, pieces, holdsBytes);
	}

	#sendIndex(lines: Buffer | undefined): void {
		if (lines && this.#outputs.index) this.#queue.add(this.#outputs.index, [lines], lines.length);
	}
}
