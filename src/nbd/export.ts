import type {BlockSizes} from './options.ts';
import {MAX_PAYLOAD_BYTES, type StatusExtent} from './protocol.ts';

/**
 * What a server shows. What it can do is what it has: without `write` it is read-only, and clients are told so. Requests come
 * many at a time, in no order but this: a flush covers the writes that are settled when it comes. Ranges are within the
 * size, not empty, and aligned to the minimal block. A rejection becomes the client's error: with a system's error its
 * number, with a `QuiesceError` its words too.
 */
export interface NbdExport {
	readonly sizeBytes: number;
	/** Words for people. */
	readonly description?: string;
	/** If other than 1, 4096 and 32 MiB. */
	readonly blockSizes?: BlockSizes;
	/** Whether a flush on one connection covers what was written on others: clients may then open several. */
	readonly connections?: 'independent' | 'coherent';
	/** Fills `into`, which is the server's again once the promise is settled. */
	readonly read?: (offset: number, into: Buffer) => Promise<void>;
	/** `data` is the server's again once the promise is settled. */
	readonly write?: (offset: number, data: Buffer) => Promise<void>;
	readonly writeZeroes?: (offset: number, length: number, how: ZeroesWanted) => Promise<void>;
	readonly trim?: (offset: number, length: number) => Promise<void>;
	/** Makes durable what was written before. Also called after a write that has to be durable by itself. */
	readonly flush?: () => Promise<void>;
	readonly cache?: (offset: number, length: number) => Promise<void>;
	/** Metadata contexts, such as `base:allocation`. */
	readonly contexts?: readonly string[];
	/**
	 * What the beginning of a range is like in a context: one extent at least, and no more than `limit`. They may reach beyond
	 * the range.
	 */
	readonly blockStatus?: (
		context: string,
		offset: number,
		length: number,
		limit: number,
	) => Promise<readonly StatusExtent[]>;
}

export interface ZeroesWanted {
	/** Whether space is to stay reserved for the range. */
	readonly space: 'keep' | 'release';
	/** With `fast`, it rejects with `ENOTSUP` if zeroes would take as long as data. */
	readonly speed: 'any' | 'fast';
}

const DEFAULT_BLOCK_SIZES: BlockSizes = {minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD_BYTES};

export function blockSizesOf({blockSizes}: NbdExport): BlockSizes {
	return blockSizes ?? DEFAULT_BLOCK_SIZES;
}
