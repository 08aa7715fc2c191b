/**
 * A parser of a byte stream: each buffer that it yields is to be filled with the next bytes. So the lengths are the
 * parser's, checked before memory is taken for them, and each byte is copied once, to where it stays. Where it yields a
 * promise instead, it wants no bytes until that is fulfilled.
 */
export type BytesWanted<Result> = Generator<Buffer | Promise<unknown>, Result, void>;

/** Why bytes are not taken: `rest` is to be pushed once `until` is fulfilled, and nothing before. */
export interface Held {
	readonly until: Promise<unknown>;
	readonly rest: Uint8Array;
}

/** Where bytes go that come after the end. */
const NOWHERE = Buffer.allocUnsafeSlow(64 * 1024);

/** Feeds a parser with whatever pieces arrive. */
export class ByteFeeder {
	readonly #parser: BytesWanted<void>;
	#target: Buffer | Promise<unknown> = Buffer.alloc(0);
	#filled = 0;
	#backlog = 0;

	/** Runs the parser up to the first bytes that it wants. */
	constructor(parser: BytesWanted<void>) {
		this.#parser = parser;
		this.#advance();
	}

	/** For the parser: how many bytes have come that it has not asked for yet. */
	get backlog(): number {
		return this.#backlog;
	}

	/**
	 * Throws what the parser throws; the feeder is then unusable. Unless it is held, the chunk may be reused afterwards.
	 * Bytes after the parser's end are dropped.
	 */
	push(chunk: Uint8Array): Held | undefined {
		let at = 0;
		this.#backlog = chunk.length;
		if (!Buffer.isBuffer(this.#target)) this.#advance();
		for (;;) {
			if (!Buffer.isBuffer(this.#target)) return {until: this.#target, rest: chunk.subarray(at)};
			if (at === chunk.length) return undefined;
			const part = chunk.subarray(at, at + this.#target.length - this.#filled);
			this.#target.set(part, this.#filled);
			this.#filled += part.length;
			at += part.length;
			this.#backlog = chunk.length - at;
			if (this.#filled === this.#target.length) this.#advance();
		}
	}

	/** Lets the parser release what it holds. Nothing may be pushed after that, and the parser may not be running. */
	end(): void {
		this.#parser.return();
	}

	#advance(): void {
		this.#filled = 0;
		for (;;) {
			const next = this.#parser.next();
			this.#target = next.done ? NOWHERE : next.value;
			if (!Buffer.isBuffer(this.#target) || this.#target.length > 0) return;
		}
	}
}
