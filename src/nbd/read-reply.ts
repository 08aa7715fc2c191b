import type {BytesWanted} from './byte-feeder.ts';
import {NbdError} from './errors.ts';
import {CHUNK, decodeOffset} from './protocol.ts';
import type {Answer} from './replies.ts';

/** The smallest piece of content that a server tells apart. */
const SECTOR_BYTES = 512;

/** Gathers what was read into a buffer. The chunks may come in any order, and have to make up the whole of it. */
export class ReadReply implements Answer {
	readonly needs = 'data';
	readonly #offset: number;
	readonly #into: Buffer;
	readonly #spans: {start: number; end: number}[] = [];
	#received = 0;

	constructor(offset: number, into: Buffer) {
		this.#offset = offset;
		this.#into = into;
	}

	*take(type: number, length: number): BytesWanted<void> {
		if (type === CHUNK.data) {
			if (length <= 8) throw new NbdError(`the server sends data in ${length} bytes`);
			const head = Buffer.alloc(8);
			yield head;
			yield this.#part(decodeOffset(head, 0), length - 8);
		} else if (type === CHUNK.hole) {
			if (length !== 12) throw new NbdError(`the server tells a hole in ${length} bytes`);
			const payload = Buffer.alloc(12);
			yield payload;
			this.#part(decodeOffset(payload, 0), payload.readUInt32BE(8)).fill(0);
		} else {
			throw new NbdError(`the server answers a read with chunk ${type}`);
		}
	}

	/** Throws if a part was sent twice, and another not at all. */
	checkWhole(): void {
		this.#spans.sort((one, other) => one.start - other.start);
		let reached = 0;
		for (const {start, end} of this.#spans) {
			if (start !== reached) throw new NbdError('the server sends data twice, or not at all');
			reached = end;
		}
		if (reached !== this.#into.length) throw new NbdError('the server does not send all that was asked for');
	}

	#part(offset: number, length: number): Buffer {
		const start = offset - this.#offset;
		const end = start + length;
		this.#received += length;
		if (start < 0 || length === 0 || end > this.#into.length || this.#received > this.#into.length) {
			throw new NbdError('the server sends what was not asked for');
		}
		const last = this.#spans.at(-1);
		if (last?.end === start) last.end = end;
		else if (this.#spans.length > this.#into.length / SECTOR_BYTES + 1) throw new NbdError('the server sends crumbs');
		else this.#spans.push({start, end});
		return this.#into.subarray(start, end);
	}
}
