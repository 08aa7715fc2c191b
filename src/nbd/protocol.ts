import {NbdError} from './errors.ts';

/**
 * The numbers of the NBD protocol, by the sections of `doc/proto.md` of the NBD project (https://github.com/NetworkBlockDevice/nbd).
 * All numbers on the wire are big-endian.
 */

/** "Conventions": the longest name, query or message. */
export const MAX_STRING_BYTES = 4096;
/** "Block size constraints": the longest read or write that every server has to take. */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;

/** "Option types". */
export const OPTION = {
	exportName: 1,
	abort: 2,
	list: 3,
	startTls: 5,
	info: 6,
	go: 7,
	structuredReply: 8,
	listMetaContext: 9,
	setMetaContext: 10,
	extendedHeaders: 11,
} as const;

/** "Option reply types". */
export const OPTION_REPLY = {ack: 1, server: 2, info: 3, metaContext: 4} as const;

export const OPTION_ERROR = {
	unsupported: 0x8000_0001,
	invalid: 0x8000_0003,
	tlsRequired: 0x8000_0005,
	unknown: 0x8000_0006,
	tooBig: 0x8000_0009,
	extendedHeadersRequired: 0x8000_000a,
} as const;

/** What `NBD_REP_INFO` tells. */
export const INFO = {export: 0, name: 1, description: 2, blockSize: 3} as const;

/** "Transmission flags": what an export can do. */
export const TRANSMISSION_FLAG = {
	hasFlags: 1 << 0,
	readOnly: 1 << 1,
	flush: 1 << 2,
	fua: 1 << 3,
	trim: 1 << 5,
	writeZeroes: 1 << 6,
	dontFragment: 1 << 7,
	multiConnection: 1 << 8,
	cache: 1 << 10,
	fastZero: 1 << 11,
} as const;

/** "Request types". */
export const COMMAND = {
	read: 0,
	write: 1,
	disconnect: 2,
	flush: 3,
	trim: 4,
	cache: 5,
	writeZeroes: 6,
	blockStatus: 7,
} as const;

/** "Command flags". */
export const COMMAND_FLAG = {
	fua: 1 << 0,
	noHole: 1 << 1,
	dontFragment: 1 << 2,
	oneExtent: 1 << 3,
	fastZero: 1 << 4,
	payloadLength: 1 << 5,
} as const;

/** "Structured reply types". */
export const CHUNK = {
	none: 0,
	data: 1,
	hole: 2,
	blockStatus: 5,
	blockStatusExtended: 6,
	error: 0x8001,
} as const;

/** In the context `base:allocation`. */
export const STATE_HOLE = 1;
export const STATE_ZERO = 2;
/** In a context `qemu:dirty-bitmap:NAME`. */
export const STATE_DIRTY = 1;

/** How replies look: what was agreed on in the handshake. With `extended`, requests are longer too. */
export type HeaderStyle = 'simple' | 'structured' | 'extended';

/** Of a context, from the beginning of what was asked for. */
export interface StatusExtent {
	/** In bytes. */
	readonly length: number;
	/** What they mean is up to the context. */
	readonly flags: number;
}

/** Throws if 64 bits are more than a number holds exactly. */
export function decodeOffset(bytes: Buffer, at: number): number {
	const value = decodeLong(bytes, at);
	if (!Number.isSafeInteger(value)) throw new NbdError('the server sends a number beyond 2^53');
	return value;
}

/** Beyond 2^53 it is not exact, which is more than any export has. */
export function decodeLong(bytes: Buffer, at: number): number {
	return bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
}

export function encodeLong(value: number, bytes: Buffer, at: number): void {
	bytes.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at);
	bytes.writeUInt32BE(value % 0x1_0000_0000, at + 4);
}

/** With its length before it. */
export function encodeString(text: string): Buffer {
	const bytes = Buffer.from(text);
	if (bytes.length > MAX_STRING_BYTES) throw new NbdError(`a name of ${bytes.length} bytes is too long for NBD`);
	return Buffer.concat([encodeInt(bytes.length), bytes]);
}

export function encodeInt(value: number): Buffer {
	const bytes = Buffer.alloc(4);
	bytes.writeUInt32BE(value);
	return bytes;
}
