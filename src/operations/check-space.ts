import {QuiesceError} from '../errors.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {freeBytes, LEAST_BYTES} from './watch-space.ts';

/**
 * Refuses what cannot fit, before anything is begun: an uncompressed copy takes about what the disks have allocated.
 * Compressed, that is the worst case, and told as a warning.
 */
export async function checkSpace(
	repository: string,
	compression: 'none' | 'zstd',
	disks: readonly DiskWithMedium[],
): Promise<string[]> {
	const needed = disks.reduce((sum, {medium}) => sum + neededBytes(medium), 0);
	// A copy that comes nearer to a full file system than this is stopped.
	const free = Math.max(0, (await freeBytes(repository)) - LEAST_BYTES);
	if (needed <= free) return [];
	const words = `the disks hold up to ${mib(needed)} MiB, and ${repository} has ${mib(free)} MiB free to be used`;
	if (compression === 'zstd' && free > 0) return [`${words}: the copy has to compress well to fit`];
	throw new QuiesceError('FAILED', words, {hint: 'Free some space, or let the copy be compressed.'});
}

function neededBytes({virtualSize, allocatedBytes = virtualSize, chain}: DiskWithMedium['medium']): number {
	const inChain = chain.slice(1).reduce((sum, node) => sum + (node.allocatedBytes ?? node.virtualSize), allocatedBytes);
	return Math.min(inChain, virtualSize);
}

function mib(bytes: number): number {
	return Math.round(bytes / 1024 / 1024);
}
