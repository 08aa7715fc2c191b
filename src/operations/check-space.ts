import {constants} from 'node:fs';
import fs from 'node:fs/promises';
import {noScratch} from '../cut/scratch.ts';
import {asError, errnoOf, QuiesceError} from '../errors.ts';
import {type ChosenMethod, scratchFolders} from './choose-method.ts';
import type {DiskCopy} from './plan-copies.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {freeBytes, LEAST_BYTES} from './watch-space.ts';

/**
 * Refuses what cannot fit, before anything is begun: an uncompressed copy takes about what the disks have allocated.
 * Compressed, that is the worst case, and told as a warning.
 */
export async function checkSpace(
	repository: string,
	compression: 'none' | 'zstd',
	copies: readonly Pick<DiskCopy, 'disk' | 'parent'>[],
): Promise<string[]> {
	const needed = copies.reduce((sum, {disk, parent}) => sum + (parent?.bytes ?? neededBytes(disk.medium)), 0);
	// A copy that comes nearer to a full file system than this is stopped.
	const free = Math.max(0, (await freeBytes(repository)) - LEAST_BYTES);
	if (needed <= free) return [];
	const what = copies.some(({parent}) => parent) ? 'what is to be copied takes up to' : 'the disks hold up to';
	const words = `${what} ${mib(needed)} MiB, and ${repository} has ${mib(free)} MiB free to be used`;
	if (compression === 'zstd' && free > 0) return [`${words}: the copy has to compress well to fit`];
	throw new QuiesceError('FAILED', words, {hint: 'Free some space, or let the copy be compressed.'});
}

/**
 * Scratch takes what the guest overwrites while it is copied: at the worst all that the disks hold, and mostly very
 * little. A file system that is all but full is refused; the worst case that does not fit is a warning.
 */
export async function checkScratch(chosen: ChosenMethod, disks: readonly DiskWithMedium[]): Promise<string[]> {
	const warnings: string[] = [];
	for (const folder of scratchFolders(chosen)) {
		const here = disks.filter(({name}) => chosen.scratchFolders.get(name) === folder);
		const worst = here.reduce((sum, {medium}) => sum + neededBytes(medium), 0);
		await requireWritable(folder);
		const free = Math.max(0, (await freeBytes(folder)) - LEAST_BYTES);
		if (free === 0) {
			throw new QuiesceError('FAILED', `no space is free in ${folder}, where scratch is to be`, {
				hint: 'Free some space, or name another folder with --scratch.',
			});
		}
		if (worst > free) {
			warnings.push(
				`scratch in ${folder} can take up to ${mib(worst)} MiB if the guest overwrites all of it, ` +
					`and ${mib(free)} MiB are free: if it fills, the backup fails`,
			);
		}
	}
	return warnings;
}

async function requireWritable(folder: string): Promise<void> {
	try {
		await fs.access(folder, constants.W_OK | constants.X_OK);
	} catch (cause) {
		const why = errnoOf(cause) === 'ENOENT' ? 'there is no such folder' : asError(cause).message;
		throw noScratch(folder, why, cause);
	}
}

function neededBytes({virtualSize, allocatedBytes = virtualSize, chain}: DiskWithMedium['medium']): number {
	const inChain = chain.slice(1).reduce((sum, node) => sum + (node.allocatedBytes ?? node.virtualSize), allocatedBytes);
	return Math.min(inChain, virtualSize);
}

function mib(bytes: number): number {
	return Math.round(bytes / 1024 / 1024);
}
