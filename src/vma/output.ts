import type {FileHandle} from 'node:fs/promises';
import type {Writable} from 'node:stream';
import {QuiesceError} from '../errors.ts';

/** Writes pieces one after the other. Resolves once they may be changed; is called again only then. */
export type VmaOutput = (pieces: readonly Buffer[]) => Promise<void>;

/** At the file's position. */
export function toFile(file: FileHandle): VmaOutput {
	return async pieces => {
		let left = [...pieces];
		while (left.length > 0) {
			const {bytesWritten} = await file.writev(left);
			left = without(left, bytesWritten);
		}
	};
}

/** To whatever reads it: no more than one call's pieces wait there. The stream is ended by whoever has it. */
export function toStream(stream: Writable): VmaOutput {
	// Told by the callback below, too.
	stream.on('error', () => undefined);
	return pieces =>
		new Promise((resolve, reject) => {
			// Some streams forget the callback of what they were writing when they are destroyed.
			const gone = (): void => {
				reject(stream.errored ?? new QuiesceError('FAILED', 'nobody takes the archive any more: the stream is closed'));
			};
			stream.once('close', gone);
			stream.cork();
			for (const piece of pieces.slice(0, -1)) stream.write(piece);
			stream.write(pieces.at(-1) ?? Buffer.alloc(0), error => {
				stream.off('close', gone);
				if (error) reject(error);
				else resolve();
			});
			stream.uncork();
		});
}

/** What is left of the pieces after a write that was cut short. */
function without(pieces: readonly Buffer[], bytes: number): Buffer[] {
	let skip = bytes;
	const left: Buffer[] = [];
	for (const piece of pieces) {
		if (skip < piece.length) left.push(piece.subarray(skip));
		skip = Math.max(0, skip - piece.length);
	}
	return left;
}
