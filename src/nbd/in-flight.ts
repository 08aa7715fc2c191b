import type {BytesWanted} from './byte-feeder.ts';

/** How much of a connection's requests may be under way at a time. */
export interface InFlightLimits {
	readonly requests: number;
	/** Memory for what is written, read or told. A single request may have more, if it is alone. */
	readonly bytes: number;
}

/** One request under way, with memory for its data. Released once. */
export interface Admitted {
	readonly buffer: Buffer;
	readonly release: () => void;
}

const SMALLEST = 4096;

/**
 * Counts the requests of a connection that are under way, and has memory for them, which is used over and over: to take it
 * from the system each time costs more than to copy into it.
 */
export class InFlight {
	readonly #limits: InFlightLimits;
	/** Memory that is not in use, by its size. */
	readonly #free = new Map<number, Buffer[]>();
	#requests = 0;
	#bytesInUse = 0;
	#bytesFree = 0;
	#released = Promise.withResolvers<undefined>();

	constructor(limits: InFlightLimits) {
		this.#limits = limits;
	}

	/** Memory that is taken, whether in use or not. */
	get bytesHeld(): number {
		return this.#bytesInUse + this.#bytesFree;
	}

	/** Waits until there is room for a request with so many bytes. */
	*admit(length: number): BytesWanted<Admitted> {
		const size = length === 0 ? 0 : Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(length)));
		while (
			this.#requests > 0 &&
			(this.#requests >= this.#limits.requests || this.#bytesInUse + size > this.#limits.bytes)
		) {
			yield this.#released.promise;
		}
		const whole = this.#take(size);
		this.#requests++;
		this.#bytesInUse += size;
		return {
			buffer: whole.subarray(0, length),
			release: () => {
				this.#requests--;
				this.#bytesInUse -= size;
				this.#give(whole);
				this.#released.resolve(undefined);
				this.#released = Promise.withResolvers();
			},
		};
	}

	/** Resolves when nothing is under way. */
	async idle(): Promise<void> {
		while (this.#requests > 0) await this.#released.promise;
	}

	#take(size: number): Buffer {
		if (size === 0) return Buffer.alloc(0);
		const known = this.#free.get(size)?.pop();
		if (known) {
			this.#bytesFree -= size;
			return known;
		}
		// What was kept in other sizes goes first, so that both together stay within the limit.
		if (this.bytesHeld + size > this.#limits.bytes) {
			this.#free.clear();
			this.#bytesFree = 0;
		}
		return Buffer.allocUnsafeSlow(size);
	}

	#give(whole: Buffer): void {
		if (whole.length === 0 || this.bytesHeld + whole.length > this.#limits.bytes) return;
		this.#bytesFree += whole.length;
		const others = this.#free.get(whole.length);
		if (others) others.push(whole);
		else this.#free.set(whole.length, [whole]);
	}
}
