import type {BytesWanted} from './byte-feeder.ts';
import {NbdError} from './errors.ts';
import {decodeStatusPayload, STATUS_CHUNK} from './messages.ts';
import type {HeaderStyle, StatusExtent} from './protocol.ts';
import type {Answer} from './replies.ts';

/** QEMU's own limit of what it sends. */
const MAX_STATUS_CHUNK_BYTES = {structured: 4 + 1024 * 1024, extended: 8 + 2 * 1024 * 1024};

/** Gathers the status of a range in each context that was agreed on, which may be that of its beginning only. */
export class StatusReply implements Answer {
	readonly needs = 'data';
	readonly #style: Exclude<HeaderStyle, 'simple'>;
	readonly #length: number;
	readonly #contexts: ReadonlyMap<number, string>;
	readonly #status = new Map<string, StatusExtent[]>();

	constructor(style: Exclude<HeaderStyle, 'simple'>, length: number, contexts: ReadonlyMap<number, string>) {
		this.#style = style;
		this.#length = length;
		this.#contexts = contexts;
	}

	*take(type: number, length: number): BytesWanted<void> {
		if (type !== STATUS_CHUNK[this.#style])
			throw new NbdError(`the server answers a request for status with chunk ${type}`);
		if (length > MAX_STATUS_CHUNK_BYTES[this.#style])
			throw new NbdError(`the server tells the status in ${length} bytes`);
		const payload = Buffer.alloc(length);
		yield payload;
		const {contextId, extents} = decodeStatusPayload(this.#style, payload);
		const name = this.#contexts.get(contextId);
		if (name === undefined || this.#status.has(name))
			throw new NbdError('the server tells a status that is not asked for');
		this.#status.set(name, this.#within(extents));
	}

	/** Throws if a context is missing. */
	whole(): ReadonlyMap<string, StatusExtent[]> {
		if (this.#status.size < this.#contexts.size)
			throw new NbdError('the server does not tell the status in every context');
		return this.#status;
	}

	/** The last extent may go beyond what was asked for, by the protocol, and nothing may come after that. */
	#within(extents: readonly StatusExtent[]): StatusExtent[] {
		let rest = this.#length;
		return extents.map(({length, flags}) => {
			if (length === 0 || rest <= 0) throw new NbdError('the server tells the status of what was not asked for');
			const extent = {length: Math.min(length, rest), flags};
			rest -= length;
			return extent;
		});
	}
}
