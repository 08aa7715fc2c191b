import {NbdError} from './errors.ts';
import {
	CHUNK,
	decodeLong,
	decodeOffset,
	encodeLong,
	type HeaderStyle,
	MAX_STRING_BYTES,
	type StatusExtent,
} from './protocol.ts';

/**
 * The messages of the transmission phase, for both sides: "Request message", "Simple reply message", "Structured reply chunk
 * message", and the extended ones, which QEMU speaks from 8.2 on.
 */

const REQUEST_MAGIC = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC = 0x6744_6698;
const CHUNK_MAGIC = 0x668e_33ef;
const EXTENDED_CHUNK_MAGIC = 0x6e8a_278c;
const CHUNK_ERROR_BIT = 0x8000;
const CHUNK_DONE = 1;

export const REQUEST_BYTES = {simple: 28, structured: 28, extended: 32} as const;
/** Of a simple reply, and of a chunk but for its length: both have their magic first and the cookie last. */
export const REPLY_BYTES = {simple: 16, structured: 16, extended: 32} as const;
/** Of a chunk, with its length. */
export const CHUNK_HEAD_BYTES = {structured: 20, extended: 32} as const;

export interface Request {
	readonly command: number;
	readonly flags: number;
	/** The server sends it back. */
	readonly cookie: bigint;
	readonly offset: number;
	/** Of the range, and of the data of a write. */
	readonly length: number;
}

export function encodeRequest(style: HeaderStyle, {command, flags, cookie, offset, length}: Request): Buffer {
	const bytes = Buffer.alloc(REQUEST_BYTES[style]);
	bytes.writeUInt32BE(style === 'extended' ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, 0);
	bytes.writeUInt16BE(flags, 4);
	bytes.writeUInt16BE(command, 6);
	bytes.writeBigUInt64BE(cookie, 8);
	encodeLong(offset, bytes, 16);
	if (style === 'extended') encodeLong(length, bytes, 24);
	else bytes.writeUInt32BE(length, 24);
	return bytes;
}

/** Offsets and lengths beyond 2^53 are not exact; no export has them. */
export function decodeRequest(style: HeaderStyle, bytes: Buffer): Request {
	if (bytes.readUInt32BE(0) !== (style === 'extended' ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) {
		throw new NbdError('the client sends what is no request');
	}
	return {
		flags: bytes.readUInt16BE(4),
		command: bytes.readUInt16BE(6),
		cookie: bytes.readBigUInt64BE(8),
		offset: decodeLong(bytes, 16),
		length: style === 'extended' ? decodeLong(bytes, 24) : bytes.readUInt32BE(24),
	};
}

export function encodeSimpleReply(cookie: bigint, errno: number): Buffer {
	const bytes = Buffer.alloc(REPLY_BYTES.simple);
	bytes.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
	bytes.writeUInt32BE(errno, 4);
	bytes.writeBigUInt64BE(cookie, 8);
	return bytes;
}

export interface ChunkHead {
	readonly cookie: bigint;
	readonly type: number;
	readonly position: 'last' | 'more-follow';
	/** Of the request. Only extended heads have it. */
	readonly offset: number;
	/** Of the payload that follows. */
	readonly length: number;
}

/** Into `bytes`, which holds {@link CHUNK_HEAD_BYTES}. */
export function encodeChunkHead(
	style: 'structured' | 'extended',
	{cookie, type, position, offset, length}: ChunkHead,
	bytes: Buffer = Buffer.alloc(CHUNK_HEAD_BYTES[style]),
): Buffer {
	bytes.writeUInt32BE(style === 'extended' ? EXTENDED_CHUNK_MAGIC : CHUNK_MAGIC, 0);
	bytes.writeUInt16BE(position === 'last' ? CHUNK_DONE : 0, 4);
	bytes.writeUInt16BE(type, 6);
	bytes.writeBigUInt64BE(cookie, 8);
	if (style === 'extended') {
		encodeLong(offset, bytes, 16);
		encodeLong(length, bytes, 24);
	} else {
		bytes.writeUInt32BE(length, 16);
	}
	return bytes;
}

export type ReplyHead =
	| {readonly kind: 'simple'; readonly cookie: bigint; readonly errno: number}
	| {
			readonly kind: 'chunk';
			readonly cookie: bigint;
			readonly type: number;
			readonly outcome: 'answer' | 'error';
			readonly position: 'last' | 'more-follow';
			/** Of the payload. With structured replies it follows, in 4 bytes. */
			readonly length: number | undefined;
	  };

/** Of {@link REPLY_BYTES}. */
export function decodeReplyHead(style: HeaderStyle, bytes: Buffer): ReplyHead {
	const magic = bytes.readUInt32BE(0);
	const cookie = bytes.readBigUInt64BE(8);
	if (style !== 'extended' && magic === SIMPLE_REPLY_MAGIC) {
		return {kind: 'simple', errno: bytes.readUInt32BE(4), cookie};
	}
	if (magic !== (style === 'extended' ? EXTENDED_CHUNK_MAGIC : CHUNK_MAGIC)) {
		throw new NbdError('the server sends what is no reply');
	}
	const type = bytes.readUInt16BE(6);
	return {
		kind: 'chunk',
		cookie,
		type,
		outcome: type >= CHUNK_ERROR_BIT ? 'error' : 'answer',
		position: (bytes.readUInt16BE(4) & CHUNK_DONE) === 0 ? 'more-follow' : 'last',
		length: style === 'extended' ? decodeOffset(bytes, 24) : undefined,
	};
}

/** The payload of `NBD_REPLY_TYPE_ERROR`, with words for people, which may be none. */
export function encodeErrorPayload(errno: number, text: string): Buffer {
	const words = Buffer.from(text).subarray(0, MAX_STRING_BYTES);
	const bytes = Buffer.alloc(6);
	bytes.writeUInt32BE(errno, 0);
	bytes.writeUInt16BE(words.length, 4);
	return Buffer.concat([bytes, words]);
}

/** The payload of any chunk that tells an error. */
export function decodeErrorPayload(bytes: Buffer): {errno: number; text: string} {
	const textBytes = bytes.length < 6 ? 0 : bytes.readUInt16BE(4);
	if (bytes.length < 6 + textBytes || bytes.readUInt32BE(0) === 0)
		throw new NbdError('the server tells an error badly');
	return {errno: bytes.readUInt32BE(0), text: bytes.toString('utf8', 6, 6 + textBytes)};
}

/** Of the payload of a chunk with the status, before its extents; and of each of them. */
export const STATUS_HEAD_BYTES = {structured: 4, extended: 8} as const;
export const STATUS_EXTENT_BYTES = {structured: 8, extended: 16} as const;

/** Into `bytes`. Returns how many were used: {@link STATUS_HEAD_BYTES} and {@link STATUS_EXTENT_BYTES} for each extent. */
export function encodeStatusPayload(
	style: 'structured' | 'extended',
	contextId: number,
	extents: readonly StatusExtent[],
	bytes: Buffer,
): number {
	bytes.writeUInt32BE(contextId, 0);
	if (style === 'extended') bytes.writeUInt32BE(extents.length, 4);
	let at: number = STATUS_HEAD_BYTES[style];
	for (const {length, flags} of extents) {
		if (style === 'extended') {
			encodeLong(length, bytes, at);
			encodeLong(flags, bytes, at + 8);
		} else {
			bytes.writeUInt32BE(length, at);
			bytes.writeUInt32BE(flags, at + 4);
		}
		at += STATUS_EXTENT_BYTES[style];
	}
	return at;
}

/** Which chunk has the status, by the style. */
export const STATUS_CHUNK = {structured: CHUNK.blockStatus, extended: CHUNK.blockStatusExtended} as const;

/** The payload of {@link STATUS_CHUNK}. */
export function decodeStatusPayload(
	style: 'structured' | 'extended',
	bytes: Buffer,
): {contextId: number; extents: StatusExtent[]} {
	const headBytes = STATUS_HEAD_BYTES[style];
	const extentBytes = STATUS_EXTENT_BYTES[style];
	const count = (bytes.length - headBytes) / extentBytes;
	if (!(count >= 1) || !Number.isInteger(count))
		throw new NbdError(`the server tells the status in ${bytes.length} bytes`);
	// A server may leave the number of extents away.
	if (style === 'extended' && ![0, count].includes(bytes.readUInt32BE(4))) {
		throw new NbdError('the server miscounts what it tells of the status');
	}
	const extents: StatusExtent[] = [];
	for (let at = headBytes; at < bytes.length; at += extentBytes) {
		extents.push(
			style === 'extended'
				? {length: decodeOffset(bytes, at), flags: decodeOffset(bytes, at + 8)}
				: {length: bytes.readUInt32BE(at), flags: bytes.readUInt32BE(at + 4)},
		);
	}
	return {contextId: bytes.readUInt32BE(0), extents};
}
