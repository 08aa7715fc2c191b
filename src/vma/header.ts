import {QuiesceError} from '../errors.ts';
import {BlobBuffer, MAX_BLOB_BYTES} from './blobs.ts';
import {MAX_DEVICE_BYTES, MAX_DEVICE_ID, SECTOR_BYTES, VMSTATE} from './geometry.ts';
import {seal} from './md5.ts';
import {wrongConfigName, wrongDeviceName} from './names.ts';

export interface VmaDevice {
	/** 1 to 254. */
	readonly id: number;
	readonly name: string;
	/** A multiple of 512, of nothing more. */
	readonly sizeBytes: number;
}

/** A file that goes along, such as `qemu-server.conf`. */
export interface VmaConfig {
	readonly name: string;
	/** Less than 64 KiB. */
	readonly data: Buffer;
}

export interface VmaHeader {
	/** With hyphens, in small letters. */
	readonly uuid: string;
	/** Since 1970. */
	readonly createdSeconds: number;
	/** At most 256. */
	readonly configs: readonly VmaConfig[];
	readonly devices: readonly VmaDevice[];
}

/** Where things are in the header. Numbers are big-endian. */
export const HEADER = {
	magic: 'VMA\0',
	version: 1,
	versionAt: 4,
	uuidAt: 8,
	createdAt: 24,
	md5At: 32,
	blobsAt: 48,
	blobBytesAt: 52,
	bytesAt: 56,
	configNamesAt: 2044,
	configDataAt: 3068,
	devicesAt: 4096,
	/** All that comes before the blobs. */
	fixedBytes: 12_288,
	maxConfigs: 256,
	deviceInfos: 256,
	deviceInfoBytes: 32,
} as const;
const PADDED_TO_BYTES = 512;

/** The whole header, blobs included. Throws what it cannot hold. */
export function encodeHeader({uuid, createdSeconds, configs, devices}: VmaHeader): Buffer {
	if (configs.length > HEADER.maxConfigs) throw refused(`it has room for ${HEADER.maxConfigs} configuration files`);
	refuseTwice('configuration file', configs);
	refuseTwice('device', devices);
	const blobs = new BlobBuffer();
	const fixed = Buffer.alloc(HEADER.fixedBytes);
	fixed.write(HEADER.magic, 'latin1');
	fixed.writeUInt32BE(HEADER.version, HEADER.versionAt);
	fixed.set(uuidBytes(uuid), HEADER.uuidAt);
	fixed.writeBigInt64BE(BigInt(createdSeconds), HEADER.createdAt);
	for (const [index, {name, data}] of configs.entries()) {
		const wrong = wrongConfigName(name);
		if (wrong !== undefined) throw refused(`a configuration file cannot be called so: ${wrong}`);
		fixed.writeUInt32BE(blobs.add(text(name)), HEADER.configNamesAt + index * 4);
		if (data.length > MAX_BLOB_BYTES)
			throw refused(`${name} has ${data.length} bytes, and ${MAX_BLOB_BYTES} are allowed`);
		fixed.writeUInt32BE(blobs.add(data), HEADER.configDataAt + index * 4);
	}
	for (const device of devices) {
		refuseDevice(device);
		const at = HEADER.devicesAt + device.id * HEADER.deviceInfoBytes;
		if (fixed.readUInt32BE(at) !== 0) throw refused(`two devices have the number ${device.id}`);
		fixed.writeUInt32BE(blobs.add(text(device.name)), at);
		fixed.writeBigUInt64BE(BigInt(device.sizeBytes), at + 8);
	}
	const buffer = blobs.toBuffer();
	const headerBytes = HEADER.fixedBytes + Math.ceil(buffer.length / PADDED_TO_BYTES) * PADDED_TO_BYTES;
	fixed.writeUInt32BE(HEADER.fixedBytes, HEADER.blobsAt);
	fixed.writeUInt32BE(buffer.length, HEADER.blobBytesAt);
	fixed.writeUInt32BE(headerBytes, HEADER.bytesAt);
	const header = Buffer.concat([fixed, buffer], headerBytes);
	seal(header, HEADER.md5At);
	return header;
}

/** As it stands in the header and in every extent. */
export function uuidBytes(uuid: string): Buffer {
	if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid)) throw refused(`${uuid} is no UUID`);
	return Buffer.from(uuid.replaceAll('-', ''), 'hex');
}

function refuseDevice({id, name, sizeBytes}: VmaDevice): void {
	const wrong = wrongDeviceName(name);
	if (wrong !== undefined) throw refused(`a device cannot be called so: ${wrong}`);
	// Its zeroes are dropped by the usual reader, and its end is not told.
	if (name === VMSTATE) throw refused(`"${VMSTATE}" is the name of a stream of RAM, and cannot be a disk's`);
	if (!Number.isInteger(id) || id < 1 || id > MAX_DEVICE_ID) {
		throw refused(`it numbers devices from 1 to ${MAX_DEVICE_ID}, and ${name} would be number ${id}`);
	}
	if (!Number.isInteger(sizeBytes) || sizeBytes <= 0)
		throw refused(`${name} has ${sizeBytes} bytes, and none may be empty`);
	if (sizeBytes % SECTOR_BYTES !== 0) throw refused(`${name} has ${sizeBytes} bytes, which is no multiple of 512`);
	if (sizeBytes > MAX_DEVICE_BYTES) throw refused(`${name} has ${sizeBytes} bytes, and 256 TiB are allowed`);
}

function refuseTwice(what: string, named: readonly {readonly name: string}[]): void {
	const names = new Set<string>();
	for (const {name} of named) {
		if (names.has(name)) throw refused(`two ${what}s are called ${name}`);
		names.add(name);
	}
}

/** Readers want the NUL. */
function text(name: string): Buffer {
	const bytes = Buffer.from(`${name}\0`);
	if (bytes.length > MAX_BLOB_BYTES) throw refused(`a name has ${bytes.length} bytes`);
	return bytes;
}

function refused(why: string): QuiesceError {
	return new QuiesceError('FAILED', `a VMA archive cannot hold this: ${why}`);
}
