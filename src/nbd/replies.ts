import type {BytesWanted} from './byte-feeder.ts';
import {NbdError} from './errors.ts';
import {decodeErrorPayload, decodeReplyHead, REPLY_BYTES, type ReplyHead} from './messages.ts';
import {CHUNK, type HeaderStyle, MAX_STRING_BYTES} from './protocol.ts';

/** What a request is answered with. */
export interface Answer {
	/** Without data there is no answer to what asks for data. */
	readonly needs: 'data' | 'word';
	/** Takes the payload of one chunk, which has `length` bytes. */
	take(type: number, length: number): BytesWanted<void>;
}

/** A request that waits for its answer. */
export interface Reply {
	readonly answer: Answer;
	/** Every chunk has come. Throws {@link NbdError} if they are not the whole answer. */
	finish(): void;
	/** The server could not. Called at most once, and instead of {@link finish}. */
	refuse(errno: number, text: string): void;
}

/** Whole servers tell one error a request; the protocol allows more. */
const MAX_ERRORS = 64;

/**
 * Reads replies for ever, and gives them to the requests that wait, by cookie. One that is answered in full is taken off
 * the map. Throws {@link NbdError} on anything that is not the answer to a request.
 */
export function* readReplies(style: Exclude<HeaderStyle, 'simple'>, waiting: Map<bigint, Reply>): BytesWanted<never> {
	const refusals = new Map<bigint, {errno: number; text: string; count: number}>();
	const head = Buffer.alloc(REPLY_BYTES[style]);
	const lengthBytes = Buffer.alloc(4);
	for (;;) {
		yield head;
		const reply: ReplyHead = decodeReplyHead(style, head);
		const {cookie} = reply;
		const request = waiting.get(cookie);
		if (!request) throw new NbdError('the server answers a request that does not wait');
		if (reply.kind === 'simple') {
			// Data comes in structured replies only, since they were agreed on.
			if (reply.errno === 0 && request.answer.needs === 'data')
				throw new NbdError('the server answers without an answer');
			waiting.delete(cookie);
			refusals.delete(cookie);
			if (reply.errno === 0) request.finish();
			else request.refuse(reply.errno, '');
			continue;
		}
		if (reply.length === undefined) yield lengthBytes;
		const length = reply.length ?? lengthBytes.readUInt32BE();
		if (reply.outcome === 'error') {
			if (length > MAX_STRING_BYTES + 64) throw new NbdError(`the server tells an error in ${length} bytes`);
			const payload = Buffer.alloc(length);
			yield payload;
			const {count, ...first} = refusals.get(cookie) ?? {...decodeErrorPayload(payload), count: 0};
			if (count === MAX_ERRORS) throw new NbdError('the server tells too many errors of one request');
			refusals.set(cookie, {...first, count: count + 1});
		} else if (reply.type === CHUNK.none) {
			if (length > 0 || reply.position !== 'last') throw new NbdError('the server sends an empty chunk with data');
		} else {
			yield* request.answer.take(reply.type, length);
		}
		if (reply.position === 'more-follow') continue;
		const refusal = refusals.get(cookie);
		if (refusal) {
			waiting.delete(cookie);
			refusals.delete(cookie);
			request.refuse(refusal.errno, refusal.text);
		} else {
			request.finish();
			waiting.delete(cookie);
		}
	}
}
