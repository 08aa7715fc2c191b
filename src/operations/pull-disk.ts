import {QuiesceError} from '../errors.ts';
import type {NbdClient} from '../nbd/client.ts';
import type {NbdExport} from '../nbd/export.ts';
import {passOn} from '../nbd/pass-on.ts';
import {ALLOCATION, type DiskReader} from './open-readers.ts';

/** What a qcow2 image takes at once, compressed, and once only. */
const CLUSTER_BYTES = 64 * 1024;
/** What is read at once. */
const PIECE_BYTES = 1024 * 1024;
const ZERO_BYTES = 1024 * 1024 * 1024;
const AT_ONCE = 16;
const ANY_EXTENTS = Number.MAX_SAFE_INTEGER;
/** In the flags of a dirty bitmap, and of `base:allocation`: "NBD_STATE_DIRTY", "NBD_STATE_ZERO". */
const DIRTY = 1;
const ZERO = 2;

interface Piece {
	readonly content: 'data' | 'zero';
	readonly offset: number;
	readonly length: number;
}

/**
 * Writes to `target` what a reader's disk held: all of it, or what its bitmap names, in whole clusters, each once. `done` is
 * waited for after each piece, with its bytes. To cancel, abort the signals of both clients.
 */
export async function pullDisk(
	{client, pieceBytes, changes}: DiskReader,
	target: NbdClient,
	done: (bytes: number) => Promise<void>,
): Promise<void> {
	const contexts = new Map([ALLOCATION, ...(changes === undefined ? [] : [changes])].map(name => [name, name]));
	const source = passOn(client, {contexts, pieceBytes, wholeContexts: new Set(changes === undefined ? [] : [changes])});
	const pieces = piecesOf(source, changes);
	const work = async (): Promise<void> => {
		const buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
		for (let next = await pieces.next(); next.done !== true; next = await pieces.next()) {
			const {content, offset, length} = next.value;
			if (content === 'zero') await target.writeZeroes(offset, length);
			else {
				const bytes = buffer.subarray(0, length);
				await source.read?.(offset, bytes);
				await target.write(offset, bytes);
			}
			await done(length);
		}
	};
	const workers = Array.from({length: AT_ONCE}, work);
	await Promise.allSettled(workers);
	await Promise.all(workers);
}

/** Each cluster once, and in order. */
async function* piecesOf(source: NbdExport, changes: string | undefined): AsyncGenerator<Piece, void, void> {
	for await (const {content, offset, length} of runsOf(source, changes)) {
		const most = content === 'zero' ? ZERO_BYTES : PIECE_BYTES;
		for (let at = 0; at < length; at += most) {
			yield {content, offset: offset + at, length: Math.min(most, length - at)};
		}
	}
}

/** What is data is rounded out to whole clusters; what is left is zero, or not wanted. */
async function* runsOf(source: NbdExport, changes: string | undefined): AsyncGenerator<Piece, void, void> {
	const {sizeBytes} = source;
	let reached = 0;
	for await (const {offset, length} of dataOf(source, changes)) {
		const start = Math.max(reached, Math.floor(offset / CLUSTER_BYTES) * CLUSTER_BYTES);
		const end = Math.min(sizeBytes, Math.ceil((offset + length) / CLUSTER_BYTES) * CLUSTER_BYTES);
		if (end <= start) continue;
		if (changes === undefined && start > reached) yield {content: 'zero', offset: reached, length: start - reached};
		yield {content: 'data', offset: start, length: end - start};
		reached = end;
	}
	if (changes === undefined && reached < sizeBytes) {
		yield {content: 'zero', offset: reached, length: sizeBytes - reached};
	}
}

async function* dataOf(
	source: NbdExport,
	changes: string | undefined,
): AsyncGenerator<{readonly offset: number; readonly length: number}, void, void> {
	const isData = (flags: number): boolean => (changes === undefined ? (flags & ZERO) === 0 : (flags & DIRTY) !== 0);
	for (let offset = 0; offset < source.sizeBytes;) {
		const extents = await source.blockStatus?.(changes ?? ALLOCATION, offset, source.sizeBytes - offset, ANY_EXTENTS);
		if (!extents || extents.length === 0) throw new QuiesceError('FAILED', 'QEMU does not tell what is to be copied');
		for (const {length, flags} of extents) {
			if (isData(flags)) yield {offset, length: Math.min(length, source.sizeBytes - offset)};
			offset += length;
		}
	}
}
