import {checksumOf} from './blocks.ts';
import {VmaDecoder, type VmaEvent} from './decoder.ts';
import {VmaDamagedError} from './errors.ts';
import type {VmaEntry, VmaExtent} from './extent.ts';
import type {IndexedExtent, VmaIndexReader} from './index-reader.ts';

/**
 * Reads an archive from its first byte to its last, from a file or a pipe. What it yields has been checked, but that all of
 * it is there is known only at the end, and of the data nothing: see `checkedAgainst`. Throws
 * {@link VmaDamagedError}, or the source's error.
 */
export async function* readVma(source: AsyncIterable<Buffer>): AsyncGenerator<VmaEvent, void, void> {
	const decoder = new VmaDecoder();
	for await (const chunk of source) yield* decoder.push(chunk);
	decoder.end();
}

/** The same archive, each cluster compared with its checksum in the index before it is yielded. Reads all of the index. */
export async function* checkedAgainst(
	index: VmaIndexReader,
	events: AsyncIterable<VmaEvent>,
): AsyncGenerator<VmaEvent, void, void> {
	const extents = index.extents();
	let current: IndexedExtent | undefined;
	let entry = 0;
	for await (const event of events) {
		if (event.kind === 'header') index.requireFor(event.bytes);
		if (event.kind === 'extent') {
			current = await nextOf(extents, event.extent);
			entry = 0;
		}
		if (event.kind === 'cluster') {
			requireChecksum(event, current?.checksums[entry]);
			entry++;
		}
		yield event;
	}
	const next = await extents.next();
	if (next.done !== true) {
		throw new VmaDamagedError(next.value.offset, 'expected another extent, as in the index, found the end');
	}
}

/** Throws if the cluster is not what the index says. */
export function requireChecksum(
	{stored, offset, cluster, device}: Pick<VmaEvent & {kind: 'cluster'}, 'stored' | 'offset' | 'cluster' | 'device'>,
	checksum: number | undefined,
): void {
	if (checksumOf([stored]) === checksum) return;
	throw new VmaDamagedError(
		offset,
		`expected cluster ${cluster} of ${device.name} with its checksum in the index, found other data`,
	);
}

async function nextOf(extents: AsyncIterator<IndexedExtent, number>, found: VmaExtent): Promise<IndexedExtent> {
	const next = await extents.next();
	if (next.done === true)
		throw new VmaDamagedError(found.offset, 'expected the end, as in the index, found another extent');
	const expected = next.value;
	const isSame =
		expected.entries.length === found.entries.length &&
		expected.entries.every((entry, at) => isSameEntry(entry, found.entries[at]));
	if (!isSame)
		throw new VmaDamagedError(found.offset, 'expected the extent that the index tells of, found another one');
	return expected;
}

function isSameEntry(one: VmaEntry, other: VmaEntry | undefined): boolean {
	return one.cluster === other?.cluster && one.mask === other.mask && one.deviceId === other.deviceId;
}
