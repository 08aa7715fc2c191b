/** Bytes that came in pieces, to be taken in others. Copied only where what is taken was in more than one piece. */
export class ChunkQueue {
	#chunks: Buffer[] = [];
	#length = 0;

	get length(): number {
		return this.#length;
	}

	add(chunk: Buffer): void {
		if (chunk.length === 0) return;
		this.#chunks.push(chunk);
		this.#length += chunk.length;
	}

	/** The first `bytes`; there are as many. */
	take(bytes: number): Buffer {
		const taken = this.peek(bytes);
		this.#length -= bytes;
		let left = bytes;
		let whole = 0;
		for (const chunk of this.#chunks) {
			if (chunk.length > left) break;
			left -= chunk.length;
			whole++;
		}
		if (whole > 0) this.#chunks = this.#chunks.slice(whole);
		const [first] = this.#chunks;
		if (first && left > 0) this.#chunks[0] = first.subarray(left);
		return taken;
	}

	/** The same, but they stay. */
	peek(bytes: number): Buffer {
		const [first] = this.#chunks;
		if (first && first.length >= bytes) return first.subarray(0, bytes);
		const parts: Buffer[] = [];
		let missing = bytes;
		for (const chunk of this.#chunks) {
			if (missing === 0) break;
			parts.push(chunk.subarray(0, missing));
			missing -= Math.min(missing, chunk.length);
		}
		return Buffer.concat(parts, bytes);
	}
}
