import {findBlobs} from './blobs.ts';
import {VmaDamagedError} from './errors.ts';
import {MAX_DEVICE_BYTES, MAX_DEVICE_ID, SECTOR_BYTES, VMSTATE} from './geometry.ts';
import {HEADER, type VmaConfig, type VmaDevice, type VmaHeader} from './header.ts';
import {isSound} from './md5.ts';
import {wrongConfigName, wrongDeviceName} from './names.ts';

/** More than 256 configuration files and 254 names can take. */
const MAX_HEADER_BYTES = 64 * 1024 * 1024;
/** Of all disks together. What was seen of each cluster takes a bit: at most 128 MiB. */
const MAX_TOTAL_BYTES = 64 * 2 ** 40;

/** Of all of the header, told by its first {@link HEADER.fixedBytes}. */
export function headerBytesOf(fixed: Buffer): number {
	const magic = fixed.toString('latin1', 0, 4);
	if (magic !== HEADER.magic) throw new VmaDamagedError(0, `expected the magic of VMA, found ${JSON.stringify(magic)}`);
	const version = fixed.readUInt32BE(HEADER.versionAt);
	if (version !== HEADER.version) {
		throw new VmaDamagedError(HEADER.versionAt, `expected version ${HEADER.version}, found ${version}`);
	}
	const bytes = fixed.readUInt32BE(HEADER.bytesAt);
	if (bytes <= HEADER.fixedBytes || bytes > MAX_HEADER_BYTES) {
		throw new VmaDamagedError(
			HEADER.bytesAt,
			`expected a header of more than ${HEADER.fixedBytes} and at most ${MAX_HEADER_BYTES} bytes, found one of ${bytes}`,
		);
	}
	return bytes;
}

/** All of the header, as long as {@link headerBytesOf} says. The configuration files are parts of it. */
export function decodeHeader(bytes: Buffer): VmaHeader {
	if (!isSound(bytes, HEADER.md5At)) {
		throw new VmaDamagedError(HEADER.md5At, `expected the MD5 of the header's ${bytes.length} bytes, found another`);
	}
	const blobs = new PointedBlobs(bytes);
	const configs = decodeConfigs(bytes, blobs);
	const devices = decodeDevices(bytes, blobs);
	return {
		uuid: bytes
			.toString('hex', HEADER.uuidAt, HEADER.createdAt)
			.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
		createdSeconds: Number(bytes.readBigInt64BE(HEADER.createdAt)),
		configs,
		devices,
	};
}

function decodeConfigs(bytes: Buffer, blobs: PointedBlobs): VmaConfig[] {
	const configs: VmaConfig[] = [];
	for (let index = 0; index < HEADER.maxConfigs; index++) {
		const nameAt = HEADER.configNamesAt + index * 4;
		const dataAt = HEADER.configDataAt + index * 4;
		if (bytes.readUInt32BE(nameAt) === 0 || bytes.readUInt32BE(dataAt) === 0) continue;
		const name = blobs.textAt(nameAt);
		refuseName(nameAt, 'a configuration file', name, wrongConfigName(name), configs);
		configs.push({name, data: blobs.bytesAt(dataAt)});
	}
	return configs;
}

function decodeDevices(bytes: Buffer, blobs: PointedBlobs): VmaDevice[] {
	const devices: VmaDevice[] = [];
	let totalBytes = 0;
	for (let id = 0; id < HEADER.deviceInfos; id++) {
		const at = HEADER.devicesAt + id * HEADER.deviceInfoBytes;
		const sizeBytes = Number(bytes.readBigUInt64BE(at + 8));
		if (sizeBytes === 0 || bytes.readUInt32BE(at) === 0) continue;
		if (id === 0 || id > MAX_DEVICE_ID) {
			throw new VmaDamagedError(at, `expected devices with numbers from 1 to ${MAX_DEVICE_ID}, found number ${id}`);
		}
		const name = blobs.textAt(at);
		refuseName(at, 'a device', name, wrongDeviceName(name), devices);
		if (name !== VMSTATE) totalBytes += refuseSize(at + 8, name, sizeBytes);
		if (totalBytes > MAX_TOTAL_BYTES) {
			throw new VmaDamagedError(
				at + 8,
				`expected at most 64 TiB of disks, which is all that is read, found ${totalBytes} bytes`,
			);
		}
		devices.push({id, name, sizeBytes});
	}
	return devices;
}

function refuseName(
	at: number,
	what: string,
	name: string,
	wrong: string | undefined,
	others: readonly {readonly name: string}[],
): void {
	if (wrong !== undefined) throw new VmaDamagedError(at, `expected a safe name of ${what}, but ${wrong}`);
	if (others.some(other => other.name === name)) {
		throw new VmaDamagedError(at, `expected another name of ${what} than before, found "${name}" again`);
	}
}

function refuseSize(at: number, name: string, sizeBytes: number): number {
	if (sizeBytes > MAX_DEVICE_BYTES) {
		throw new VmaDamagedError(at, `expected ${name} to have at most 256 TiB, found ${sizeBytes} bytes`);
	}
	if (sizeBytes % SECTOR_BYTES !== 0) {
		throw new VmaDamagedError(at, `expected a size of ${name} in whole sectors of 512 bytes, found ${sizeBytes} bytes`);
	}
	return sizeBytes;
}

/** What the pointers of a header lead to. */
class PointedBlobs {
	readonly #header: Buffer;
	readonly #blobs: Map<number, Buffer>;

	constructor(header: Buffer) {
		this.#header = header;
		const start = header.readUInt32BE(HEADER.blobsAt);
		const bytes = header.readUInt32BE(HEADER.blobBytesAt);
		if (start < HEADER.fixedBytes || start + bytes > header.length) {
			throw new VmaDamagedError(
				HEADER.blobsAt,
				`expected blobs between bytes ${HEADER.fixedBytes} and ${header.length}, found ${bytes} bytes at ${start}`,
			);
		}
		const pointers = new Set<number>();
		for (let index = 0; index < HEADER.maxConfigs; index++) {
			pointers.add(header.readUInt32BE(HEADER.configNamesAt + index * 4));
			pointers.add(header.readUInt32BE(HEADER.configDataAt + index * 4));
		}
		for (let id = 0; id < HEADER.deviceInfos; id++) {
			pointers.add(header.readUInt32BE(HEADER.devicesAt + id * HEADER.deviceInfoBytes));
		}
		this.#blobs = findBlobs(header.subarray(start, start + bytes), pointers);
	}

	/** What the pointer at `at` leads to. */
	bytesAt(at: number): Buffer {
		const blob = this.#blobs.get(this.#header.readUInt32BE(at));
		if (blob) return blob;
		throw new VmaDamagedError(at, `expected a pointer to a blob, found ${this.#header.readUInt32BE(at)}`);
	}

	textAt(at: number): string {
		const blob = this.bytesAt(at);
		if (blob.at(-1) !== 0) throw new VmaDamagedError(at, 'expected a name that ends with a NUL, found one without');
		try {
			return new TextDecoder('utf-8', {fatal: true, ignoreBOM: true}).decode(blob.subarray(0, -1));
		} catch (error) {
			throw new VmaDamagedError(at, 'expected a name in UTF-8, found other bytes', {cause: error});
		}
	}
}
