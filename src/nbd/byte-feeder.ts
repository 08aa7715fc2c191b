/**
 * A parser of a byte stream: each buffer that it yields is to be filled with the next bytes. So the lengths are the
 * parser's, checked before memory is taken for them, and each byte is copied once, to where it stays.
 */
export type BytesWanted<Result> = Generator<Buffer, Result, void>;

/** Feeds a parser with whatever pieces arrive. */
export class ByteFeeder {
	readonly #parser: BytesWanted<never>;
	#target: Buffer = Buffer.alloc(0);
	#filled = 0;

	/** Runs the parser up to the first bytes that it wants. */
	constructor(parser: BytesWanted<never>) {
		this.#parser = parser;
		this.#advance();
	}

	/** Throws what the parser throws; the feeder is then unusable. The chunk may be reused afterwards. */
	push(chunk: Uint8Array): void {
		for (let at = 0; at < chunk.length;) {
			const part = chunk.subarray(at, at + this.#target.length - this.#filled);
			this.#target.set(part, this.#filled);
			this.#filled += part.length;
			at += part.length;
			if (this.#filled === this.#target.length) this.#advance();
		}
	}

	#advance(): void {
		do this.#target = this.#parser.next().value;
		while (this.#target.length === 0);
		this.#filled = 0;
	}
}
