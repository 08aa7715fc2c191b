import {performance} from 'node:perf_hooks';

/** For how many milliseconds `work` went on. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
	const began = performance.now();
	await work();
	return performance.now() - began;
}
