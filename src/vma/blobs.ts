/**
 * The blob buffer of a header: one byte of padding, so that the pointer 0 can mean none, and blobs side by side, each with
 * its length before it in two bytes, the only numbers of the format that are little-endian.
 */

export const MAX_BLOB_BYTES = 0xffff;
const FIRST = 1;
const LENGTH_BYTES = 2;

/** Collects blobs. */
export class BlobBuffer {
	readonly #parts: Buffer[] = [Buffer.alloc(FIRST)];
	#used = FIRST;

	/** Returns the pointer to it. It has at most {@link MAX_BLOB_BYTES}. */
	add(blob: Buffer): number {
		const length = Buffer.alloc(LENGTH_BYTES);
		length.writeUInt16LE(blob.length);
		this.#parts.push(length, blob);
		const pointer = this.#used;
		this.#used += LENGTH_BYTES + blob.length;
		return pointer;
	}

	toBuffer(): Buffer {
		return Buffer.concat(this.#parts);
	}
}

/**
 * The blobs that the pointers lead to; those that lead to none are not among them. A blob begins only where the one before
 * it ends, so they are found by going from one to the next. They are parts of `buffer`.
 */
export function findBlobs(buffer: Buffer, pointers: ReadonlySet<number>): Map<number, Buffer> {
	const found = new Map<number, Buffer>();
	for (let at = FIRST; at + LENGTH_BYTES <= buffer.length && found.size < pointers.size;) {
		const end = at + LENGTH_BYTES + buffer.readUInt16LE(at);
		if (end > buffer.length) break;
		if (pointers.has(at)) found.set(at, buffer.subarray(at + LENGTH_BYTES, end));
		at = end;
	}
	return found;
}
