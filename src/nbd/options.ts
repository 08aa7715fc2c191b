import {NbdError} from './errors.ts';
import {
	decodeOffset,
	encodeInt,
	encodeLong,
	encodeString,
	INFO,
	MAX_STRING_BYTES,
	OPTION_REPLY,
	TRANSMISSION_FLAG,
} from './protocol.ts';

/** The messages of the fixed newstyle handshake, for both sides: "Handshake", "Option types", "Option reply types". */

const GREETING_MAGIC = 'NBDMAGICIHAVEOPT';
const OPTION_MAGIC = 'IHAVEOPT';
const OPTION_REPLY_MAGIC = 0x0003_e889_0455_65a9n;
/** Of the server: fixed newstyle. Of the client: the same, and without padding. */
const FIXED_NEWSTYLE = 1;
const NO_ZEROES = 2;
const OPTION_ERROR_BIT = 0x8000_0000;

export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEAD_BYTES = 16;
export const OPTION_REPLY_BYTES = 20;
/** After the answer to `NBD_OPT_EXPORT_NAME`, unless the client does without. */
const PADDING_BYTES = 124;

export function encodeGreeting(): Buffer {
	const bytes = Buffer.alloc(GREETING_BYTES);
	bytes.write(GREETING_MAGIC, 'latin1');
	bytes.writeUInt16BE(FIXED_NEWSTYLE | NO_ZEROES, 16);
	return bytes;
}

export function checkGreeting(bytes: Buffer): void {
	if (bytes.toString('latin1', 0, 16) !== GREETING_MAGIC) throw new NbdError('what answers is no NBD server');
	if ((bytes.readUInt16BE(16) & FIXED_NEWSTYLE) === 0) throw new NbdError('the server does not negotiate');
}

/** Answers the greeting: without the padding that nobody needs, if the server can leave it out. */
export function encodeClientFlags(greeting: Buffer): Buffer {
	return encodeInt(FIXED_NEWSTYLE | (greeting.readUInt16BE(16) & NO_ZEROES));
}

/** Whether the client wants padding. Throws on a flag that was not offered, as the protocol has it. */
export function decodeClientFlags(bytes: Buffer): 'padded' | 'bare' {
	const flags = bytes.readUInt32BE(0);
	if ((flags & ~(FIXED_NEWSTYLE | NO_ZEROES)) !== 0 || (flags & FIXED_NEWSTYLE) === 0) {
		throw new NbdError('the client does not negotiate');
	}
	return (flags & NO_ZEROES) === 0 ? 'padded' : 'bare';
}

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
	return Buffer.concat([Buffer.from(OPTION_MAGIC), encodeInt(option), encodeInt(data.length), data]);
}

/** The head of an option; `length` is that of the data which follows. */
export function decodeOptionHead(bytes: Buffer): {option: number; length: number} {
	if (bytes.toString('latin1', 0, 8) !== OPTION_MAGIC) throw new NbdError('the client sends what is no option');
	return {option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12)};
}

export interface ContextsWanted {
	readonly exportName: string;
	readonly queries: readonly string[];
}

/** The data of `NBD_OPT_SET_META_CONTEXT` and `NBD_OPT_LIST_META_CONTEXT`. */
export function encodeMetaContexts({exportName, queries}: ContextsWanted): Buffer {
	return Buffer.concat([encodeString(exportName), encodeInt(queries.length), ...queries.map(encodeString)]);
}

/** Throws on data that is not well-formed. */
export function decodeMetaContexts(bytes: Buffer): ContextsWanted {
	const reader = new DataReader(bytes);
	const exportName = reader.string();
	const queries: string[] = [];
	for (let left = reader.int(); left > 0; left--) queries.push(reader.string());
	reader.end();
	return {exportName, queries};
}

export interface ExportWanted {
	readonly exportName: string;
	/** Information that is asked for beside that which there always is. */
	readonly information: readonly number[];
}

/** The data of `NBD_OPT_GO` and `NBD_OPT_INFO`. */
export function encodeGo({exportName, information}: ExportWanted): Buffer {
	const bytes = Buffer.alloc(2 + 2 * information.length);
	bytes.writeUInt16BE(information.length);
	for (const [index, type] of information.entries()) bytes.writeUInt16BE(type, 2 + 2 * index);
	return Buffer.concat([encodeString(exportName), bytes]);
}

/** Throws on data that is not well-formed. */
export function decodeGo(bytes: Buffer): ExportWanted {
	const reader = new DataReader(bytes);
	const exportName = reader.string();
	const information = Array.from({length: reader.short()}, () => reader.short());
	reader.end();
	return {exportName, information};
}

/** Strings and numbers one after the other, which have to fit in what there is. */
class DataReader {
	readonly #bytes: Buffer;
	#at = 0;

	constructor(bytes: Buffer) {
		this.#bytes = bytes;
	}

	short(): number {
		return this.#take(2).readUInt16BE(0);
	}

	int(): number {
		return this.#take(4).readUInt32BE(0);
	}

	string(): string {
		const length = this.int();
		if (length > MAX_STRING_BYTES) throw new NbdError(`the client sends a name of ${length} bytes`);
		return this.#take(length).toString();
	}

	end(): void {
		if (this.#at !== this.#bytes.length) throw new NbdError('the client sends an option that is too long');
	}

	#take(length: number): Buffer {
		const end = this.#at + length;
		if (end > this.#bytes.length) throw new NbdError('the client sends an option that is too short');
		const part = this.#bytes.subarray(this.#at, end);
		this.#at = end;
		return part;
	}
}

/** With a type that is an error, the data are words for people. */
export function encodeOptionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
	const head = Buffer.alloc(OPTION_REPLY_BYTES);
	head.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
	head.writeUInt32BE(option, 8);
	head.writeUInt32BE(type, 12);
	head.writeUInt32BE(data.length, 16);
	return Buffer.concat([head, data]);
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
	if (type === OPTION_REPLY.ack && length > 0) throw new NbdError('the server acknowledges with data');
	return {type, length, outcome: type >= OPTION_ERROR_BIT ? 'error' : 'answer'};
}

/** The data of `NBD_REP_META_CONTEXT`. */
export function encodeMetaContext(id: number, name: string): Buffer {
	return Buffer.concat([encodeInt(id), Buffer.from(name)]);
}

export function decodeMetaContext(bytes: Buffer): {id: number; name: string} {
	if (bytes.length < 4) throw new NbdError('the server names a context in too few bytes');
	return {id: bytes.readUInt32BE(0), name: bytes.toString('utf8', 4)};
}

/** The data of `NBD_REP_SERVER`. */
export function encodeListed(exportName: string, description: string): Buffer {
	return Buffer.concat([encodeString(exportName), Buffer.from(description)]);
}

/** "Block size constraints", in bytes. */
export interface BlockSizes {
	/** What requests are aligned to: a power of two of at most 64 KiB. */
	readonly minimum: number;
	/** A power of two of at least 512. */
	readonly preferred: number;
	/** Of a read or a write: a multiple of the minimum. */
	readonly maximum: number;
}

/** The data of `NBD_REP_INFO` of each kind. */
export function encodeExportInfo(sizeBytes: number, flags: number): Buffer {
	const bytes = Buffer.alloc(12);
	bytes.writeUInt16BE(INFO.export, 0);
	encodeLong(sizeBytes, bytes, 2);
	bytes.writeUInt16BE(flags, 10);
	return bytes;
}

export function encodeBlockSizes({minimum, preferred, maximum}: BlockSizes): Buffer {
	const bytes = Buffer.alloc(14);
	bytes.writeUInt16BE(INFO.blockSize, 0);
	bytes.writeUInt32BE(minimum, 2);
	bytes.writeUInt32BE(preferred, 6);
	bytes.writeUInt32BE(maximum, 10);
	return bytes;
}

export function encodeTextInfo(type: number, text: string): Buffer {
	const bytes = Buffer.alloc(2);
	bytes.writeUInt16BE(type);
	return Buffer.concat([bytes, Buffer.from(text)]);
}

/** The answer to `NBD_OPT_EXPORT_NAME`, which has no head. */
export function encodeExportAnswer(sizeBytes: number, flags: number, padding: 'padded' | 'bare'): Buffer {
	const info = encodeExportInfo(sizeBytes, flags).subarray(2);
	return padding === 'bare' ? info : Buffer.concat([info, Buffer.alloc(PADDING_BYTES)]);
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
	if (bytes.readUInt16BE(0) !== INFO.export) return undefined;
	if (bytes.length !== 12) throw new NbdError(`the server tells the size of its export in ${bytes.length} bytes`);
	return {
		sizeBytes: decodeOffset(bytes, 2),
		reads: (bytes.readUInt16BE(10) & TRANSMISSION_FLAG.dontFragment) === 0 ? 'parts' : 'whole',
	};
}
