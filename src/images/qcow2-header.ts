import {QuiesceError} from '../errors.ts';
import {openPlainFile} from './plain-file.ts';

/** The members of a qcow2 header (docs/interop/qcow2.txt in QEMU) that decide whether an image may be opened. */
export interface Qcow2Header {
	readonly version: number;
	readonly sizeBytes: number;
	/** As it is written in the image: a path, relative or not, a URL or a `json:` description. */
	readonly backingFile: string | null;
	readonly dataFile: 'none' | 'external';
	readonly state: 'sound' | 'marked-corrupt';
}

const MAGIC = 0x51_46_49_fb;
const HEADER_BYTES = 104;
const MAX_NAME_BYTES = 1023;
const MARKED_CORRUPT = 1 << 1;
const EXTERNAL_DATA_FILE = 1 << 2;

/**
 * Reads an image's header without QEMU, which opens whatever other files a hostile image names as soon as it opens the
 * image. Throws `DAMAGED` if it is no qcow2 image.
 */
export async function readQcow2Header(path: string): Promise<Qcow2Header> {
	const damaged = (why: string) => new QuiesceError('DAMAGED', `${path} is not a sound qcow2 image: ${why}`);
	const file = await openPlainFile(path);
	try {
		const header = Buffer.alloc(HEADER_BYTES);
		const {bytesRead} = await file.read(header, 0, HEADER_BYTES, 0);
		// A version 2 header ends after 72 bytes; what follows it is not read below.
		if (bytesRead < 72 || header.readUInt32BE(0) !== MAGIC) throw damaged('it has no qcow2 header');
		const version = header.readUInt32BE(4);
		if (version !== 2 && version !== 3) throw damaged(`unknown version ${version}`);
		const features = version === 3 ? Number(header.readBigUInt64BE(72) & 0xffn) : 0;
		const nameBytes = header.readUInt32BE(16);
		if (nameBytes > MAX_NAME_BYTES) throw damaged('the name of its backing file is too long');
		return {
			version,
			sizeBytes: Number(header.readBigUInt64BE(24)),
			backingFile: await backingFile(header.readBigUInt64BE(8), nameBytes),
			dataFile: (features & EXTERNAL_DATA_FILE) === 0 ? 'none' : 'external',
			state: (features & MARKED_CORRUPT) === 0 ? 'sound' : 'marked-corrupt',
		};
	} finally {
		await file.close();
	}

	async function backingFile(offset: bigint, bytes: number): Promise<string | null> {
		if (offset === 0n) return null;
		const name = Buffer.alloc(bytes);
		const {bytesRead} = await file.read(name, 0, bytes, offset);
		if (bytesRead < bytes) throw damaged('the name of its backing file is cut off');
		return name.toString();
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
