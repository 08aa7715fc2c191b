import {ChunkQueue} from './chunk-queue.ts';
import {ClusterAccount} from './cluster-account.ts';
import {decodeHeader, headerBytesOf} from './decode-header.ts';
import {VmaDamagedError} from './errors.ts';
import {decodeExtentHeader, EXTENT_HEADER_BYTES, type VmaExtent} from './extent.ts';
import {BLOCK_BYTES, blocksIn} from './geometry.ts';
import {HEADER, uuidBytes, type VmaDevice, type VmaHeader} from './header.ts';

/** What an archive holds, in its order. */
export type VmaEvent =
	/** The first. */
	| {readonly kind: 'header'; readonly header: VmaHeader; readonly bytes: Buffer}
	/** Its clusters follow. */
	| {readonly kind: 'extent'; readonly extent: VmaExtent}
	| {
			readonly kind: 'cluster';
			readonly device: VmaDevice;
			readonly cluster: number;
			readonly mask: number;
			/** The blocks in the mask, one after the other. Part of a chunk, where they came in one. */
			readonly stored: Buffer;
			/** Of these, in the archive. */
			readonly offset: number;
	  };

/**
 * Reads an archive that comes in any pieces, and checks all that can be checked of it. Holds no more than a cluster and the
 * last piece, once the header (64 MiB at most) is through, and a bit for each cluster of the disks (128 MiB at most). Throws
 * {@link VmaDamagedError}; it is then unusable.
 */
export class VmaDecoder {
	readonly #queue = new ChunkQueue();
	readonly #parser = this.#parse();
	/** Of what has been taken from the queue. */
	#offset = 0;
	#ended = false;

	/** What comes to an end in the chunk, which must not be changed until that was used. To be taken to the last. */
	*push(chunk: Buffer): Generator<VmaEvent, void, void> {
		this.#queue.add(chunk);
		for (let event = this.#parser.next(); event.value; event = this.#parser.next()) yield event.value;
	}

	/** There is no more. Throws if there should be. */
	end(): void {
		this.#ended = true;
		this.#parser.next();
	}

	/** Yields nothing where it needs more bytes. */
	*#parse(): Generator<VmaEvent | undefined, void, void> {
		yield* this.#need(HEADER.fixedBytes, 'the header');
		const bytes = yield* this.#take(headerBytesOf(this.#queue.peek(HEADER.fixedBytes)), 'the header');
		const header = decodeHeader(bytes);
		yield {kind: 'header', header, bytes};
		const uuid = uuidBytes(header.uuid);
		const account = new ClusterAccount(header.devices);
		for (;;) {
			while (this.#queue.length === 0 && !this.#ended) yield undefined;
			if (this.#queue.length === 0) break;
			const offset = this.#offset;
			const devices: VmaDevice[] = [];
			const extent = decodeExtentHeader(
				yield* this.#take(EXTENT_HEADER_BYTES, 'an extent'),
				offset,
				uuid,
				(entry, at) => devices.push(account.take(entry, at)),
			);
			yield {kind: 'extent', extent};
			for (const [index, device] of devices.entries()) {
				const {cluster = 0, mask = 0} = extent.entries[index] ?? {};
				const dataAt = this.#offset;
				const stored = yield* this.#take(blocksIn(mask) * BLOCK_BYTES, `cluster ${cluster} of ${device.name}`);
				yield {kind: 'cluster', device, cluster, mask, stored, offset: dataAt};
			}
		}
		account.finish(this.#offset);
	}

	*#take(bytes: number, what: string): Generator<undefined, Buffer, void> {
		yield* this.#need(bytes, what);
		this.#offset += bytes;
		return this.#queue.take(bytes);
	}

	*#need(bytes: number, what: string): Generator<undefined, void, void> {
		while (this.#queue.length < bytes) {
			if (this.#ended) {
				const missing = bytes - this.#queue.length;
				throw new VmaDamagedError(
					this.#offset + this.#queue.length,
					`expected ${missing} more bytes of ${what}, found the end`,
				);
			}
			yield undefined;
		}
	}
}
