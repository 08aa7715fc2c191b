import {QuiesceError} from '../errors.ts';
import {inClusters, type Segment, ZERO_CONTEXT} from '../images/cluster-runs.ts';
import {CLUSTER_BYTES} from '../images/hash-records.ts';
import type {NbdClient} from '../nbd/client.ts';
import type {NbdExport} from '../nbd/export.ts';
import {passOn} from '../nbd/pass-on.ts';
import {STATE_DIRTY, STATE_ZERO} from '../nbd/protocol.ts';
import type {DiskReader} from './open-readers.ts';

/** What is read at once. */
const PIECE_BYTES = 1024 * 1024;
const ZERO_BYTES = 1024 * 1024 * 1024;
const AT_ONCE = 16;
const ANY_EXTENTS = Number.MAX_SAFE_INTEGER;

interface Piece {
	readonly content: 'data' | 'zero';
	readonly offset: number;
	readonly length: number;
}

/**
 * Writes to `target` what a reader's disk held: all of it, or what its bitmap names, in whole clusters, each once: a compressed
 * image takes them in no other way. `done` is waited for after each piece, with its bytes. To cancel, abort the signals of both
 * clients.
 */
export async function pullDisk(
	{client, pieceBytes, changes}: DiskReader,
	target: NbdClient,
	done: (bytes: number) => Promise<void>,
): Promise<void> {
	const told = changes ?? ZERO_CONTEXT;
	const contexts = new Map([[told, told]]);
	const wholeContexts = new Set(changes === undefined ? [] : [changes]);
	const source = passOn(client, {contexts, pieceBytes, wholeContexts});
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
	const {sizeBytes} = source;
	for await (const {firstCluster, clusters, content} of inClusters(segmentsOf(source, changes), sizeBytes)) {
		const end = Math.min((firstCluster + clusters) * CLUSTER_BYTES, sizeBytes);
		const most = content === 'zero' ? ZERO_BYTES : PIECE_BYTES;
		for (let offset = firstCluster * CLUSTER_BYTES; offset < end; offset += most) {
			yield {content, offset, length: Math.min(most, end - offset)};
		}
	}
}

/** What has changed is read, whatever it is: only of a whole disk it is asked what is zero. */
async function* segmentsOf(source: NbdExport, changes: string | undefined): AsyncGenerator<Segment, void, void> {
	const {sizeBytes} = source;
	for (let offset = 0; offset < sizeBytes;) {
		const extents = await source.blockStatus?.(changes ?? ZERO_CONTEXT, offset, sizeBytes - offset, ANY_EXTENTS);
		if (!extents || extents.length === 0) throw new QuiesceError('FAILED', 'QEMU does not tell what is to be copied');
		for (const extent of extents) {
			const length = Math.min(extent.length, sizeBytes - offset);
			if (length === 0) break;
			const has = (flag: number): boolean => (extent.flags & flag) !== 0;
			yield changes === undefined
				? {offset, length, state: 'wanted', content: has(STATE_ZERO) ? 'zero' : 'data'}
				: {offset, length, state: has(STATE_DIRTY) ? 'wanted' : 'unwanted', content: 'data'};
			offset += length;
		}
	}
}
