import {QuiesceError} from '../errors.ts';
import type {FileHandle} from 'node:fs/promises';
import {openPlainFile} from './plain-file.ts';

/** The members of a qcow2 header (docs/interop/qcow2.txt in QEMU) that decide whether an image may be opened. */
export interface Qcow2Header {
	readonly version: number;
	readonly sizeBytes: number;
	/** As it is written in the image: a path, relative or not, a URL or a `json:` description. */
	readonly backingFile: string | null;
	/** How that is to be opened; null if the image leaves it to be guessed. */
	readonly backingFormat: string | null;
	readonly dataFile: 'none' | 'external';
	readonly state: 'sound' | 'marked-corrupt';
}

const MAGIC = 0x51_46_49_fb;
const HEADER_BYTES = 104;
const MAX_NAME_BYTES = 1023;
const VERSION_2_BYTES = 72;
const BACKING_FORMAT = 0xe2_79_2a_ca;
const NO_MORE_EXTENSIONS = 0;
/** QEMU's own images have four. */
const MAX_EXTENSIONS = 32;
const MARKED_CORRUPT = 1 << 1;
const EXTERNAL_DATA_FILE = 1 << 2;

/**
 * Reads an image's header without QEMU, which opens whatever other files a hostile image names as soon as it opens the
 * image. Throws `DAMAGED` if it is no qcow2 image.
 */
export async function readQcow2Header(path: string): Promise<Qcow2Header> {
	const file = await openPlainFile(path);
	try {
		return await readQcow2HeaderIn(file, path);
	} finally {
		await file.close();
	}
}

/** As {@link readQcow2Header}, of a file that is open; `path` is for the message. */
export async function readQcow2HeaderIn(file: FileHandle, path: string): Promise<Qcow2Header> {
	const damaged = (why: string) => new QuiesceError('DAMAGED', `${path} is not a sound qcow2 image: ${why}`);
	const header = Buffer.alloc(HEADER_BYTES);
	const {bytesRead} = await file.read(header, 0, HEADER_BYTES, 0);
	// A version 2 header ends there; what follows it is not read below.
	if (bytesRead < VERSION_2_BYTES || header.readUInt32BE(0) !== MAGIC) throw damaged('it has no qcow2 header');
	const version = header.readUInt32BE(4);
	if (version !== 2 && version !== 3) throw damaged(`unknown version ${version}`);
	const features = version === 3 ? Number(header.readBigUInt64BE(72) & 0xffn) : 0;
	const nameBytes = header.readUInt32BE(16);
	if (nameBytes > MAX_NAME_BYTES) throw damaged('the name of its backing file is too long');
	return {
		version,
		sizeBytes: Number(header.readBigUInt64BE(24)),
		backingFile: await backingFile(header.readBigUInt64BE(8), nameBytes),
		backingFormat: await backingFormat(version === 2 ? VERSION_2_BYTES : header.readUInt32BE(100)),
		dataFile: (features & EXTERNAL_DATA_FILE) === 0 ? 'none' : 'external',
		state: (features & MARKED_CORRUPT) === 0 ? 'sound' : 'marked-corrupt',
	};

	async function backingFile(offset: bigint, bytes: number): Promise<string | null> {
		if (offset === 0n) return null;
		return (await read(Number(offset), bytes, 'the name of its backing file is cut off')).toString();
	}

	/** Extensions lie behind the header, each with its kind and length, and padded to eight bytes. */
	async function backingFormat(first: number): Promise<string | null> {
		let at = first;
		for (let count = 0; count < MAX_EXTENSIONS; count++) {
			const start = Buffer.alloc(8);
			if ((await file.read(start, 0, 8, at)).bytesRead < 8) return null;
			const [kind, bytes] = [start.readUInt32BE(0), start.readUInt32BE(4)];
			if (kind === NO_MORE_EXTENSIONS) return null;
			if (kind === BACKING_FORMAT) {
				if (bytes > MAX_NAME_BYTES) throw damaged('the format of its backing file is too long');
				return (await read(at + 8, bytes, 'the format of its backing file is cut off')).toString();
			}
			at += 8 + Math.ceil(bytes / 8) * 8;
		}
		return null;
	}

	async function read(offset: number, bytes: number, why: string): Promise<Buffer> {
		const content = Buffer.alloc(bytes);
		if ((await file.read(content, 0, bytes, offset)).bytesRead < bytes) throw damaged(why);
		return content;
	}
}

/**
 * Refuses an image that would make QEMU open any file but `backingFile`, or any at all if that is null. To be called
 * before anything else opens an image of a repository.
 */
export async function requireNoForeignFiles(path: string, backingFile: string | null): Promise<Qcow2Header> {
	const header = await readQcow2Header(path);
	const refused = (why: string) =>
		new QuiesceError('DAMAGED', `${path} is refused: ${why}`, {
			hint: 'The image is not as it was written; somebody may have changed it. It has not been opened.',
		});
	if (header.dataFile === 'external') throw refused('it keeps its data in another file');
	if (header.backingFile !== backingFile) {
		if (header.backingFile === null) throw refused(`it lacks its backing file ${JSON.stringify(backingFile)}`);
		throw refused(`it names the backing file ${JSON.stringify(header.backingFile)}`);
	}
	return header;
}
