import path from 'node:path';
import fs from 'node:fs/promises';
import os from 'node:os';
import {errnoOf, QuiesceError} from '../errors.ts';
import {ZERO_CONTEXT} from '../images/cluster-runs.ts';
import type {ContentHashes} from '../images/content-hashes.ts';
import {compareContent, type ContentComparison, type Mismatch} from '../images/hash-content.ts';
import {CLUSTER_BYTES} from '../images/hash-records.ts';
import {StorageDaemon} from '../images/storage-daemon.ts';
import {NbdClient} from '../nbd/client.ts';
import {composeHashes} from './content-hashes.ts';
import type {DiskChain} from './disk-chain.ts';
import {isUnproved} from './manifest.ts';

export interface ContentOptions {
	readonly signal?: AbortSignal | undefined;
	/** Of the disk. */
	readonly onProgress?: ((file: string, bytes: number) => void) | undefined;
}

const NAME = 'disk';

/**
 * Reads what the guest would see of a disk, through all images of its chain, and compares it with the hashes of what it
 * saw. Returns why they differ; undefined if they do not. The images' headers must have been checked: QEMU opens them.
 */
export async function contentProblem(
	{links, knownBy}: DiskChain,
	{signal, onProgress}: ContentOptions,
): Promise<string | undefined> {
	const tip = links.at(-1) ?? links[0];
	if (links.every(({disk}) => isUnproved(disk))) return undefined;
	const without = links.find(({disk}) => disk.hashes === null);
	if (without) {
		// A point of an earlier version: its files have checksums.
		return knownBy === 'files' ? undefined : `the content of ${without.file} is not known`;
	}
	let expected: ContentHashes;
	try {
		const files = links.map(({point, disk}) => path.join(point.folder, disk.hashes ?? ''));
		expected = await composeHashes(files, tip.disk.sizeBytes);
	} catch (error) {
		if (error instanceof QuiesceError && error.code === 'DAMAGED') return error.message;
		if (errnoOf(error) === 'ENOENT') return 'the hashes of its content are missing';
		throw error;
	}
	const {mismatches, mismatchedClusters} = await compare(tip.file, expected, {signal, onProgress});
	if (mismatchedClusters === 0) return undefined;
	const where = mismatches.map(rangeWords).join(', ');
	const bytes = mismatchedClusters * CLUSTER_BYTES;
	return `${bytes} bytes are not what the guest had: ${where}${mismatches.length < mismatchedClusters ? ' …' : ''}`;
}

/**
 * Reads an image, with all that it lies on, where another one stored something, and compares it with the hashes of that.
 * Returns whether they are alike. The images' headers must have been checked.
 */
export async function holdsStored(
	file: string,
	hashes: string,
	sizeBytes: number,
	options: ContentOptions,
): Promise<boolean> {
	const {mismatchedClusters} = await compare(file, await composeHashes([hashes], sizeBytes), options, 'expected');
	return mismatchedClusters === 0;
}

async function compare(
	file: string,
	expected: ContentHashes,
	{signal, onProgress}: ContentOptions,
	only?: 'expected',
): Promise<ContentComparison> {
	const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'quiesce-'));
	const socket = path.join(folder, 'nbd.sock');
	try {
		const daemon = await StorageDaemon.start(socket, {whenKilled: 'die'});
		try {
			await daemon.serveReadOnly({name: NAME, path: file, chain: 'follow'});
			const client = await NbdClient.connect({unix: socket}, NAME, {metaContexts: [ZERO_CONTEXT], signal});
			try {
				return await compareContent(client, expected, {
					only,
					onProgress: ({positionBytes}) => onProgress?.(file, positionBytes),
				});
			} finally {
				await client.close();
			}
		} finally {
			await daemon.kill();
		}
	} finally {
		await fs.rm(folder, {recursive: true, force: true});
	}
}

function rangeWords({firstCluster, clusters, why}: Mismatch): string {
	const words = why === 'unreadable' ? ' (cannot be read)' : '';
	return `${clusters * CLUSTER_BYTES} at ${firstCluster * CLUSTER_BYTES}${words}`;
}
