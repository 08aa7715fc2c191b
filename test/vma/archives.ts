import {emptyExtentHeader, putEntry, sealExtentHeader, type VmaEntry} from '../../src/vma/extent.ts';
import {BLOCK_BYTES, blocksIn, CLUSTER_BYTES, clusterLength, clustersOf} from '../../src/vma/geometry.ts';
import {encodeHeader, uuidBytes, type VmaDevice, type VmaHeader} from '../../src/vma/header.ts';
import {expand} from '../../src/vma/blocks.ts';
import {readVma} from '../../src/vma/reader.ts';
import type {VmaEvent} from '../../src/vma/decoder.ts';
import type {VmaOutput} from '../../src/vma/output.ts';
import {VmaWriter} from '../../src/vma/writer.ts';

export const UUID = '01234567-89ab-cdef-0123-456789abcdef';

export function headerOf(...sizes: number[]): VmaHeader {
	return {
		uuid: UUID,
		createdSeconds: 1_700_000_000,
		configs: [{name: 'qemu-server.conf', data: Buffer.from('memory: 512\n')}],
		devices: sizes.map((sizeBytes, index) => ({id: index + 1, name: `drive-scsi${index}`, sizeBytes})),
	};
}

/** Collects what is written. */
export function memory(): {readonly output: VmaOutput; readonly bytes: () => Buffer} {
	const all: Buffer[] = [];
	return {
		output: pieces => {
			all.push(...pieces.map(piece => Buffer.from(piece)));
			return Promise.resolve();
		},
		bytes: () => Buffer.concat(all),
	};
}

/** What each device holds, by name. */
export type Contents = ReadonlyMap<string, Buffer>;

export interface Archive {
	readonly archive: Buffer;
	readonly index: Buffer;
}

/** Written by our writer, cluster by cluster in this order. */
export async function written(
	header: VmaHeader,
	contents: Contents,
	order: readonly {readonly device: VmaDevice; readonly cluster: number}[] = clustersInOrder(header),
): Promise<Archive> {
	const archive = memory();
	const index = memory();
	const writer = new VmaWriter({header, output: archive.output, index: index.output});
	const writes = order.map(({device, cluster}) => {
		const offset = cluster * CLUSTER_BYTES;
		return writer.write(device.id, offset, contents.get(device.name)!.subarray(offset, offset + CLUSTER_BYTES));
	});
	await Promise.all(writes);
	await writer.finish();
	return {archive: archive.bytes(), index: index.bytes()};
}

export function clustersInOrder({devices}: VmaHeader): {device: VmaDevice; cluster: number}[] {
	return devices.flatMap(device =>
		Array.from({length: clustersOf(device.sizeBytes)}, (_, cluster) => ({device, cluster})),
	);
}

/** An extent that our writer would not make. Each entry has blocks of its own byte. */
export function extent(entries: readonly (VmaEntry & {readonly fill?: number})[], options: ExtentOptions = {}): Buffer {
	const header = emptyExtentHeader(uuidBytes(options.uuid ?? UUID));
	for (const [index, entry] of entries.entries()) putEntry(header, options.slots?.[index] ?? index, entry);
	const blocks = entries.filter(({deviceId}) => deviceId !== 0).reduce((sum, {mask}) => sum + blocksIn(mask), 0);
	options.change?.(header);
	sealExtentHeader(header, options.blocks ?? blocks);
	const data = entries.map(({mask, fill, deviceId}) =>
		Buffer.alloc(deviceId === 0 ? 0 : blocksIn(mask) * BLOCK_BYTES, fill ?? 0),
	);
	return Buffer.concat([header, ...data]);
}

interface ExtentOptions {
	readonly uuid?: string;
	/** Where the entries stand. */
	readonly slots?: readonly number[];
	readonly blocks?: number;
	/** Before the MD5. */
	readonly change?: (header: Buffer) => void;
}

/** An archive of one device with these extents. */
export function archiveOf(header: VmaHeader, ...extents: Buffer[]): Buffer {
	return Buffer.concat([encodeHeader(header), ...extents]);
}

export async function* inPieces(bytes: Buffer, pieceBytes = 64 * 1024): AsyncGenerator<Buffer, void, void> {
	await Promise.resolve();
	for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

/** Quicker than what tells where they differ. */
export function areSame(one: Contents, other: Contents): boolean {
	return one.size === other.size && [...one].every(([name, content]) => other.get(name)?.equals(content) === true);
}

/** Reads all of it. */
export async function contentsOf(events: AsyncIterable<VmaEvent>): Promise<{header: VmaHeader; contents: Contents}> {
	const contents = new Map<string, Buffer>();
	let header: VmaHeader | undefined;
	for await (const event of events) {
		if (event.kind === 'header') {
			({header} = event);
			for (const {name, sizeBytes} of header.devices) contents.set(name, Buffer.alloc(sizeBytes, 0xee));
		}
		if (event.kind === 'cluster') {
			const {device, cluster, mask, stored} = event;
			const length = clusterLength(cluster, device.sizeBytes);
			contents.get(device.name)!.set(expand(stored, mask, length), cluster * CLUSTER_BYTES);
		}
	}
	return {header: header!, contents};
}

export function readBack(archive: Buffer, pieceBytes?: number): ReturnType<typeof contentsOf> {
	return contentsOf(readVma(inPieces(archive, pieceBytes)));
}

/** Numbers that are the same in every run. */
export function seeded(seed: number): (below: number) => number {
	let state = seed;
	return below => {
		state = (state + 0x6d2b79f5) | 0;
		let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
		mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
		return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
	};
}

/** Some clusters full, some empty, some in part. */
export function someContent(sizeBytes: number, seed: number): Buffer {
	const random = seeded(seed);
	const content = Buffer.alloc(sizeBytes);
	for (let at = 0; at < sizeBytes; at += CLUSTER_BYTES) {
		const kind = random(4);
		if (kind === 0) continue;
		for (let block = at; block < Math.min(at + CLUSTER_BYTES, sizeBytes); block += BLOCK_BYTES) {
			if (kind > 1 || random(2) === 0)
				content.fill(1 + random(255), block + random(512), Math.min(block + BLOCK_BYTES, sizeBytes));
		}
	}
	return content;
}
