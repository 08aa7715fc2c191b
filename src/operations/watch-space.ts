import fs from 'node:fs/promises';
import {concatMap, ignoreElements, type Observable, scan, throwError, timer, EMPTY} from 'rxjs';
import {QuiesceError} from '../errors.ts';

const EVERY_MS = 200;
/** What stays free, at the least. */
export const LEAST_BYTES = 16 * 1024 * 1024;

/** Bytes that an unprivileged writer finds free. */
export async function freeBytes(folder: string): Promise<number> {
	const {bavail, bsize} = await fs.statfs(folder);
	return bavail * bsize;
}

/**
 * Never emits; fails shortly before a file system is full. A push job that meets a full target fails the guest's own
 * writes with it, so it has to be cancelled before that; so does what fills the file system of the guest's images. The margin is what was written in the last interval, twice.
 */
export function watchSpace(folder: string, hint: string): Observable<never> {
	return timer(0, EVERY_MS).pipe(
		concatMap(() => freeBytes(folder)),
		scan((last, free) => ({free, used: Math.max(0, last.free - free)}), {free: 0, used: 0}),
		concatMap(({free, used}) =>
			free > Math.max(LEAST_BYTES, 2 * used)
				? EMPTY
				: throwError(
						() =>
							new QuiesceError('FAILED', `no space is left in ${folder}: the copy was stopped before it was full`, {
								hint,
							}),
					),
		),
		ignoreElements(),
	);
}
