import {QmpProtocolError} from './errors.ts';

const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const SPACE = 0x20;
/** Never part of UTF-8: the guest agent sends it before a `guest-sync-delimited` reply. */
const SENTINEL = 0xff;

/** QEMU's own limits for what it reads (qobject/json-streamer.c); nothing longer or deeper is meant well. */
const MAX_BYTES = 64 * 1024 * 1024;
const MAX_DEPTH = 1024;

export interface FramerOptions {
	readonly maxBytes?: number;
	/**
	 * What to do with bytes outside of an object: a monitor sends none but white space, so they show that the peer is
	 * something else; an agent's socket may hold the rest of what an earlier client did not read.
	 */
	readonly between?: 'reject' | 'skip';
}

/**
 * Cuts a byte stream into JSON objects by brace depth, in memory bounded by three times the longest message.
 *
 * Lines are not enough: QEMU ends a message with CRLF, but a monitor started with `pretty=on` spreads it over many
 * lines, and the guest agent ends it with LF.
 */
export class JsonObjectFramer {
	readonly #maxBytes: number;
	readonly #between: 'reject' | 'skip';
	#kept = Buffer.alloc(0);
	#length = 0;
	#depth = 0;
	#inString = false;
	#escaped = false;

	constructor({maxBytes = MAX_BYTES, between = 'reject'}: FramerOptions = {}) {
		this.#maxBytes = maxBytes;
		this.#between = between;
	}

	/** Returns the objects that `chunk` completed, in order. Throws {@link QmpProtocolError}; the framer is then unusable. */
	push(chunk: Buffer): Buffer[] {
		const complete: Buffer[] = [];
		let start = 0;
		for (let index = 0; index < chunk.length; index++) {
			const byte = chunk[index] ?? 0;
			if (byte === SENTINEL) {
				this.#reset();
			} else if (this.#inString) {
				if (this.#escaped) this.#escaped = false;
				else if (byte === BACKSLASH) this.#escaped = true;
				else if (byte === QUOTE) this.#inString = false;
			} else if (this.#depth === 0) {
				if (byte === OPEN_BRACE) {
					this.#depth = 1;
					start = index;
				} else if (byte > SPACE && this.#between === 'reject') {
					throw new QmpProtocolError('what arrives is not JSON objects');
				}
			} else if (byte === QUOTE) {
				this.#inString = true;
			} else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
				if (++this.#depth > MAX_DEPTH) throw new QmpProtocolError(`a message is nested deeper than ${MAX_DEPTH}`);
			} else if ((byte === CLOSE_BRACE || byte === CLOSE_BRACKET) && --this.#depth === 0) {
				complete.push(this.#finish(chunk.subarray(start, index + 1)));
			}
		}
		if (this.#depth > 0) this.#keep(chunk.subarray(start));
		return complete;
	}

	#finish(tail: Buffer): Buffer {
		this.#checkLength(tail.length);
		const message = this.#length === 0 ? tail : Buffer.concat([this.#kept.subarray(0, this.#length), tail]);
		this.#reset();
		return message;
	}

	/** Grows by doubling, so that a peer which sends single bytes costs no more than one that sends blocks. */
	#keep(part: Buffer): void {
		this.#checkLength(part.length);
		const needed = this.#length + part.length;
		if (needed > this.#kept.length) {
			const grown = Buffer.allocUnsafe(Math.min(Math.max(needed, this.#kept.length * 2, 4096), this.#maxBytes));
			this.#kept.copy(grown, 0, 0, this.#length);
			this.#kept = grown;
		}
		part.copy(this.#kept, this.#length);
		this.#length = needed;
	}

	#checkLength(more: number): void {
		if (this.#length + more > this.#maxBytes) {
			throw new QmpProtocolError(`a message is longer than ${this.#maxBytes} bytes`);
		}
	}

	#reset(): void {
		this.#kept = Buffer.alloc(0);
		this.#length = 0;
		this.#depth = 0;
		this.#inString = false;
		this.#escaped = false;
	}
}
