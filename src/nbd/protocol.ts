import {NbdError} from './errors.ts';

/**
 * The parts of the NBD protocol (proto.md of the NBD project) that a client needs which reads and asks for status: the
 * fixed newstyle handshake, and structured replies. All numbers are big-endian.
 */

/** The longest name, query or message that the protocol knows. */
export const MAX_STRING_BYTES = 4096;
/** The longest read that every server has to take. */
export const MAX_READ_BYTES = 32 * 1024 * 1024;
/** Of a request for status: its length has 32 bits. A multiple of any cluster. */
export const MAX_STATUS_BYTES = 0x8000_0000;

export const OPTION = {go: 7, structuredReply: 8, setMetaContext: 10} as const;
export const OPTION_REPLY = {ack: 1, info: 3, metaContext: 4} as const;
export const COMMAND = {read: 0, disconnect: 2, blockStatus: 7} as const;
export const CHUNK = {none: 0, data: 1, hole: 2, blockStatus: 5} as const;
/** In `base:allocation`: there is nothing but zeroes. */
export const STATE_ZERO = 2;

const GREETING_MAGIC = 'NBDMAGICIHAVEOPT';
const OPTION_MAGIC = 'IHAVEOPT';
const OPTION_REPLY_MAGIC = 0x0003_e889_0455_65a9n;
const REQUEST_MAGIC = 0x2560_9513;
const SIMPLE_REPLY_MAGIC = 0x6744_6698;
const CHUNK_MAGIC = 0x668e_33ef;
/** Of the server: fixed newstyle. Of the client: the same, and without padding. */
const FIXED_NEWSTYLE = 1;
const NO_ZEROES = 2;
const OPTION_ERROR = 0x8000_0000;
const CHUNK_ERROR = 0x8000;
const CHUNK_DONE = 1;
const INFO_EXPORT = 0;
const CAN_READ_WHOLE = 1 << 7;
/** Do not fragment: a read is answered with one chunk of data. */
const READ_WHOLE = 1 << 2;

export const GREETING_BYTES = 18;
export const OPTION_REPLY_BYTES = 20;
/** Of a simple reply, and of a chunk but for its length: both have their magic first and the cookie last. */
export const REPLY_BYTES = 16;
const REQUEST_BYTES = 28;
const EXTENT_BYTES = 8;

export function checkGreeting(bytes: Buffer): void {
	if (bytes.toString('latin1', 0, 16) !== GREETING_MAGIC) throw new NbdError('what answers is no NBD server');
	if ((bytes.readUInt16BE(16) & FIXED_NEWSTYLE) === 0) throw new NbdError('the server does not negotiate');
}

/** Answers the greeting: without the padding that nobody needs, if the server can leave it out. */
export function encodeClientFlags(greeting: Buffer): Buffer {
	const bytes = Buffer.alloc(4);
	bytes.writeUInt32BE(FIXED_NEWSTYLE | (greeting.readUInt16BE(16) & NO_ZEROES));
	return bytes;
}

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
	return Buffer.concat([Buffer.from(OPTION_MAGIC), u32(option), u32(data.length), data]);
}

/** The data of `NBD_OPT_SET_META_CONTEXT`. */
export function encodeMetaContexts(exportName: string, queries: readonly string[]): Buffer {
	return Buffer.concat([encodeString(exportName), u32(queries.length), ...queries.map(encodeString)]);
}

/** The data of `NBD_OPT_GO`, which asks for no more information than there always is. */
export function encodeGo(exportName: string): Buffer {
	return Buffer.concat([encodeString(exportName), Buffer.alloc(2)]);
}

export interface OptionReply {
	readonly type: number;
	/** Of the data that follows. */
	readonly length: number;
	readonly outcome: 'answer' | 'error';
}

/** The head of a reply to `option`. */
export function decodeOptionReply(bytes: Buffer, option: number): OptionReply {
	if (bytes.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new NbdError('the server answers an option out of order');
	if (bytes.readUInt32BE(8) !== option) throw new NbdError('the server answers an option that was not sent');
	const type = bytes.readUInt32BE(12);
	const length = bytes.readUInt32BE(16);
	// No reply that is of use is longer than a string and a few numbers.
	if (length > MAX_STRING_BYTES + 64) throw new NbdError(`the server answers an option with ${length} bytes`);
	return {type, length, outcome: type >= OPTION_ERROR ? 'error' : 'answer'};
}

/** The data of `NBD_REP_META_CONTEXT`. */
export function decodeMetaContext(bytes: Buffer): {id: number; name: string} {
	if (bytes.length < 4) throw new NbdError('the server names a context in too few bytes');
	return {id: bytes.readUInt32BE(0), name: bytes.toString('utf8', 4)};
}

export interface ExportInfo {
	readonly sizeBytes: number;
	readonly reads: Fragmentation;
}

/** Whether the answer to a read may be asked for as a `whole`, or comes in whatever `parts` the server likes. */
export type Fragmentation = 'whole' | 'parts';

/** The data of `NBD_REP_INFO`, if it is what there always is. */
export function decodeExportInfo(bytes: Buffer): ExportInfo | undefined {
	if (bytes.length < 2) throw new NbdError('the server describes its export in too few bytes');
	if (bytes.readUInt16BE(0) !== INFO_EXPORT) return undefined;
	if (bytes.length !== 12) throw new NbdError(`the server tells the size of its export in ${bytes.length} bytes`);
	return {
		sizeBytes: decodeOffset(bytes, 2),
		reads: (bytes.readUInt16BE(10) & CAN_READ_WHOLE) === 0 ? 'parts' : 'whole',
	};
}

export interface Request {
	readonly command: number;
	readonly cookie: number;
	readonly offset: number;
	readonly length: number;
	/** Of a read. */
	readonly answer?: Fragmentation;
}

export function encodeRequest({command, cookie, offset, length, answer}: Request): Buffer {
	const bytes = Buffer.alloc(REQUEST_BYTES);
	bytes.writeUInt32BE(REQUEST_MAGIC, 0);
	bytes.writeUInt16BE(answer === 'whole' ? READ_WHOLE : 0, 4);
	bytes.writeUInt16BE(command, 6);
	bytes.writeBigUInt64BE(BigInt(cookie), 8);
	bytes.writeBigUInt64BE(BigInt(offset), 16);
	bytes.writeUInt32BE(length, 24);
	return bytes;
}

export type ReplyHead =
	| {readonly kind: 'simple'; readonly cookie: number; readonly errno: number}
	/** Its length follows, in 4 bytes. */
	| {
			readonly kind: 'chunk';
			readonly cookie: number;
			readonly type: number;
			readonly outcome: 'answer' | 'error';
			readonly position: 'last' | 'more-follow';
	  };

export function decodeReplyHead(bytes: Buffer): ReplyHead {
	const magic = bytes.readUInt32BE(0);
	if (magic === SIMPLE_REPLY_MAGIC) {
		return {kind: 'simple', errno: bytes.readUInt32BE(4), cookie: decodeOffset(bytes, 8)};
	}
	if (magic !== CHUNK_MAGIC) throw new NbdError('the server sends what is no reply');
	const type = bytes.readUInt16BE(6);
	return {
		kind: 'chunk',
		cookie: decodeOffset(bytes, 8),
		type,
		outcome: type >= CHUNK_ERROR ? 'error' : 'answer',
		position: (bytes.readUInt16BE(4) & CHUNK_DONE) === 0 ? 'more-follow' : 'last',
	};
}

/** The payload of a chunk that tells an error, with the server's own words, which may be none. */
export function decodeErrorChunk(bytes: Buffer): {errno: number; text: string} {
	const textBytes = bytes.length < 6 ? 0 : bytes.readUInt16BE(4);
	if (bytes.length < 6 + textBytes || bytes.readUInt32BE(0) === 0)
		throw new NbdError('the server tells an error badly');
	return {errno: bytes.readUInt32BE(0), text: bytes.toString('utf8', 6, 6 + textBytes)};
}

export interface StatusExtent {
	readonly length: number;
	readonly flags: number;
}

/** The payload of `NBD_REPLY_TYPE_BLOCK_STATUS`. */
export function decodeStatusChunk(bytes: Buffer): {contextId: number; extents: StatusExtent[]} {
	if (bytes.length < 4 + EXTENT_BYTES || (bytes.length - 4) % EXTENT_BYTES !== 0) {
		throw new NbdError(`the server tells the status in ${bytes.length} bytes`);
	}
	const extents: StatusExtent[] = [];
	for (let at = 4; at < bytes.length; at += EXTENT_BYTES) {
		extents.push({length: bytes.readUInt32BE(at), flags: bytes.readUInt32BE(at + 4)});
	}
	return {contextId: bytes.readUInt32BE(0), extents};
}

/** Throws if 64 bits are more than a number holds exactly. */
export function decodeOffset(bytes: Buffer, at: number): number {
	const value = bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
	if (!Number.isSafeInteger(value)) throw new NbdError('the server sends a number beyond 2^53');
	return value;
}

function encodeString(text: string): Buffer {
	const bytes = Buffer.from(text);
	if (bytes.length > MAX_STRING_BYTES) throw new NbdError(`a name of ${bytes.length} bytes is too long for NBD`);
	return Buffer.concat([u32(bytes.length), bytes]);
}

function u32(value: number): Buffer {
	const bytes = Buffer.alloc(4);
	bytes.writeUInt32BE(value);
	return bytes;
}
