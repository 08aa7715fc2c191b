import {mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import {performance} from 'node:perf_hooks';
import {setTimeout} from 'node:timers/promises';
import {output} from '../../test/guest/command.ts';

export interface StallingFolder extends AsyncDisposable {
	readonly path: string;
	/** Lets nothing be written for so long. Returns when it began and ended, by `performance.now()`. */
	stall: (ms: number, signal: AbortSignal) => Promise<{from: number; to: number}>;
}

/** An ext4 of its own, mounted in a new folder below `parent`. Only root can make one. */
export async function mountStallingFolder(parent: string, bytes: number): Promise<StallingFolder> {
	const image = join(parent, 'target.ext4');
	const path = join(parent, 'target');
	await mkdir(path);
	await output('truncate', ['-s', String(bytes), image]);
	await output('mkfs.ext4', ['-q', image]);
	await output('mount', ['-o', 'loop', image, path]);
	return {
		path,
		stall: async (ms, signal) => {
			await output('fsfreeze', ['-f', path]);
			const from = performance.now();
			try {
				await setTimeout(ms, undefined, {signal});
			} finally {
				await output('fsfreeze', ['-u', path]);
			}
			return {from, to: performance.now()};
		},
		[Symbol.asyncDispose]: async () => {
			await output('umount', [path]);
		},
	};
}
