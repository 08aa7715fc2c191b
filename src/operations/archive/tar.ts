import {imageStem} from '../../repository/layout.ts';
import {formatDocument} from '../../repository/document.ts';
import type {VmaOutput} from '../../vma/output.ts';
import type {ServedDisk, ServedPoint} from './open-point.ts';

/** A part of a disk; without bytes it is zeroes. The bytes are valid until the next part is asked for. */
export interface DiskPart {
	readonly offset: number;
	readonly length: number;
	readonly bytes: Buffer | undefined;
}

const BLOCK_BYTES = 512;
const ZEROES = Buffer.alloc(1024 * 1024);
const MAX_NAME_BYTES = 100;
/** What eleven octal digits hold. */
const MAX_OCTAL = 0o77_777_777_777;

/**
 * Writes `machine.json` and the disks as raw files to a tar, zeroes and all, which any tar extracts (POSIX ustar; lengths of 8 GiB and
 * more as GNU tar has them). Returns its length.
 */
export async function writeTar(
	{machine, disks, point}: ServedPoint,
	output: VmaOutput,
	read: (disk: ServedDisk) => AsyncIterable<DiskPart>,
	signal: AbortSignal,
): Promise<number> {
	let written = 0;
	const put = async (...pieces: readonly Buffer[]): Promise<void> => {
		signal.throwIfAborted();
		await output(pieces);
		written += pieces.reduce((sum, {length}) => sum + length, 0);
	};
	const putZeroes = async (length: number): Promise<void> => {
		for (let left = length; left > 0; left -= ZEROES.length)
			await put(ZEROES.subarray(0, Math.min(left, ZEROES.length)));
	};
	const time = Math.floor(Date.parse(point.manifest.cutAt) / 1000);
	const document = Buffer.from(formatDocument(machine));
	await put(tarHeader('machine.json', document.length, time), document);
	await putZeroes(padding(document.length));
	for (const [index, served] of disks.entries()) {
		const {file, sizeBytes} = served.disk;
		const named = `${imageStem(file)}.raw`;
		await put(tarHeader(named.length <= MAX_NAME_BYTES ? named : `disk-${index}.raw`, sizeBytes, time));
		for await (const {length, bytes} of read(served)) await (bytes ? put(bytes) : putZeroes(length));
		await putZeroes(padding(sizeBytes));
	}
	await putZeroes(2 * BLOCK_BYTES);
	return written;
}

function padding(length: number): number {
	return (BLOCK_BYTES - (length % BLOCK_BYTES)) % BLOCK_BYTES;
}

/** Of a plain file; the time is in seconds since 1970. */
export function tarHeader(name: string, sizeBytes: number, time: number): Buffer {
	const header = Buffer.alloc(BLOCK_BYTES);
	header.write(name, 0, MAX_NAME_BYTES);
	header.write('0000600\0', 100);
	header.write('0000000\0', 108);
	header.write('0000000\0', 116);
	if (sizeBytes <= MAX_OCTAL) header.write(`${octal(sizeBytes, 11)}\0`, 124);
	else {
		header.writeUInt8(0x80, 124);
		header.writeBigUInt64BE(BigInt(sizeBytes), 128);
	}
	header.write(`${octal(time, 11)}\0`, 136);
	header.write('        ', 148);
	header.write('0', 156);
	header.write('ustar\x0000', 257);
	header.write(
		`${octal(
			header.reduce((sum, byte) => sum + byte, 0),
			6,
		)}\0 `,
		148,
	);
	return header;
}

function octal(value: number, digits: number): string {
	return value.toString(8).padStart(digits, '0');
}
