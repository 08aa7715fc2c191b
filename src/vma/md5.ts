import {hash} from 'node:crypto';

const MD5_BYTES = 16;

/** Puts the MD5 of bytes into them, at `at`: there they count as zeroes. */
export function seal(bytes: Buffer, at: number): void {
	bytes.fill(0, at, at + MD5_BYTES);
	bytes.set(hash('md5', bytes, 'buffer'), at);
}

/** Whether the bytes are those that the MD5 in them was made of. */
export function isSound(bytes: Buffer, at: number): boolean {
	const copy = Buffer.from(bytes);
	seal(copy, at);
	return copy.equals(bytes);
}
