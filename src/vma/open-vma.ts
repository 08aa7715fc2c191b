import {constants, createReadStream} from 'node:fs';
import fs, {type FileHandle} from 'node:fs/promises';
import {QuiesceError} from '../errors.ts';
import {expand} from './blocks.ts';
import {ClusterAccount} from './cluster-account.ts';
import {ClusterMap} from './cluster-map.ts';
import {VmaDamagedError} from './errors.ts';
import {readAt} from './file-reader.ts';
import {BLOCK_BYTES, blocksIn, CLUSTER_BYTES, clusterLength, VMSTATE} from './geometry.ts';
import type {VmaDevice, VmaHeader} from './header.ts';
import {VmaIndexReader} from './index-reader.ts';
import {requireChecksum} from './reader.ts';
import {type ReadHeader, readHeader, scanExtents} from './scan.ts';

/** Which of two things a stretch of a device is. */
export type VmaContent = 'data' | 'zero';

/** An archive in a file, that can be read anywhere. */
export interface OpenVma {
	readonly header: VmaHeader;
	/** Whether what is read is compared with checksums. */
	readonly checked: 'by-index' | 'not-at-all';
	/** The bytes must be in the device. Throws {@link VmaDamagedError} where they are not what they should be. */
	readonly read: (device: VmaDevice, offset: number, length: number) => Promise<Buffer>;
	/** Whether anything is stored of a cluster. */
	readonly contentOf: (device: VmaDevice, cluster: number) => VmaContent;
	readonly close: () => Promise<void>;
}

/**
 * Opens an archive which is not compressed: with its index, where that is given, or with a scan of its extents. The whole
 * index is read; of the archive only its header, or with a scan the headers of its extents. Throws `DAMAGED` if one of the two
 * is, or the system's error.
 */
export async function openVma(path: string, index?: string): Promise<OpenVma> {
	// What is no file is told below, and must not stop us here.
	const file = await fs.open(path, constants.O_RDONLY | constants.O_NONBLOCK);
	try {
		if (!(await file.stat()).isFile()) {
			throw new QuiesceError('FAILED', `${path} is no file, and only a file can be read anywhere`);
		}
		const header = await readHeader(file);
		const map = index === undefined ? await mapByScan(file, header) : await mapByIndex(file, header, index);
		return opened(file, header.header, map, index === undefined ? 'not-at-all' : 'by-index');
	} catch (error) {
		await file.close();
		throw error;
	}
}

async function mapByScan(file: FileHandle, header: ReadHeader): Promise<ClusterMap> {
	const map = new ClusterMap();
	for await (const extent of scanExtents(file, header)) map.add(extent);
	return map;
}

async function mapByIndex(file: FileHandle, {header, bytes}: ReadHeader, index: string): Promise<ClusterMap> {
	const reader = await VmaIndexReader.open(createReadStream(index));
	try {
		reader.requireFor(bytes);
		const map = new ClusterMap();
		const account = new ClusterAccount(header.devices);
		const extents = reader.extents();
		let next = await extents.next();
		for (; next.done !== true; next = await extents.next()) {
			for (const entry of next.value.entries) account.take(entry, next.value.offset);
			map.add(next.value, next.value.checksums);
		}
		account.finish(next.value);
		const {size} = await file.stat();
		if (size === next.value) return map;
		throw new VmaDamagedError(
			Math.min(size, next.value),
			`expected ${next.value} bytes, as in the index, found ${size}`,
		);
	} finally {
		await reader.close();
	}
}

function opened(file: FileHandle, header: VmaHeader, map: ClusterMap, checked: OpenVma['checked']): OpenVma {
	const readCluster = async (device: VmaDevice, cluster: number): Promise<Buffer | undefined> => {
		const found = map.find(device.id, cluster);
		if (!found) return undefined;
		const {offset, mask, checksum} = found;
		const bytes = blocksIn(mask) * BLOCK_BYTES;
		const stored = await readAt(file, offset, bytes);
		if (stored.length < bytes) {
			throw new VmaDamagedError(offset + stored.length, `expected data of ${device.name}, found the end`);
		}
		if (checksum !== undefined) requireChecksum({stored, offset, cluster, device}, checksum);
		return expand(stored, mask, clusterLength(cluster, device.sizeBytes));
	};
	return {
		header,
		checked,
		read: async (device, offset, length) => {
			const end = offset + length;
			if (device.name === VMSTATE || offset < 0 || length < 0 || end > device.sizeBytes) {
				throw new RangeError(`bytes ${offset} to ${end} of ${device.name}`);
			}
			const result = Buffer.alloc(length);
			const first = Math.floor(offset / CLUSTER_BYTES);
			const parts = Array.from({length: Math.ceil(end / CLUSTER_BYTES) - first}, async (_, index) => {
				const cluster = first + index;
				const start = cluster * CLUSTER_BYTES;
				const bytes = await readCluster(device, cluster);
				bytes?.copy(result, Math.max(0, start - offset), Math.max(0, offset - start), end - start);
			});
			await Promise.all(parts);
			return result;
		},
		contentOf: (device, cluster) => (map.find(device.id, cluster) ? 'data' : 'zero'),
		close: () => file.close(),
	};
}
