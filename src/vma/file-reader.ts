import type {FileHandle} from 'node:fs/promises';

/** Reads up to `bytes` at an offset; fewer only where the file ends. */
export async function readAt(file: FileHandle, offset: number, bytes: number): Promise<Buffer> {
	const buffer = Buffer.allocUnsafe(bytes);
	let filled = 0;
	for (let read = -1; read !== 0 && filled < bytes; filled += read) {
		read = (await file.read(buffer, filled, bytes - filled, offset + filled)).bytesRead;
	}
	return buffer.subarray(0, filled);
}
