import {watch} from 'node:fs';
import {readFile} from 'node:fs/promises';

/** What the raw writer counted, in writes and milliseconds. The worst counts a write that still hangs. */
export interface RawStats {
	readonly count: number;
	/** Since the last line that the writer printed by itself; these come once a second. */
	readonly worstMs: number;
	readonly worstOverallMs: number;
	readonly errors: number;
}

/** Every count on the console, oldest first. `raw-final` lines are not among them. */
export const rawStatsIn = (console: string): RawStats[] => {
	const lines = console.matchAll(
		/quiesce-guest: raw(?:-final)? count=(\d+) worst-ms=([\d.]+) worst-overall-ms=([\d.]+) errors=(\d+)/g,
	);
	return Array.from(lines, ([, count, worst, overall, errors]) => ({
		count: Number(count),
		worstMs: Number(worst),
		worstOverallMs: Number(overall),
		errors: Number(errors),
	}));
};

/** Resolves with the whole console as soon as it matches. Rejects when the signal aborts, with its reason. */
export const consoleSays = async (path: string, pattern: RegExp, signal: AbortSignal): Promise<string> => {
	const changes = new AbortController();
	const watcher = watch(path, {signal: AbortSignal.any([signal, changes.signal])});
	try {
		return await new Promise((resolve, reject) => {
			// One read at a time, and one more when the file grew meanwhile.
			let reading = false;
			let again = false;
			const look = (): void => {
				again = reading;
				if (reading) return;
				reading = true;
				readFile(path, 'utf8')
					.then(text => {
						reading = false;
						if (pattern.test(text)) resolve(text);
						else if (again) look();
					})
					.catch(reject);
			};
			signal.addEventListener('abort', () => {
				reject(signal.reason as Error);
			});
			signal.throwIfAborted();
			watcher.on('error', reject);
			watcher.on('change', look);
			look();
		});
	} catch (error) {
		if ((error as Error).name !== 'TimeoutError') throw error;
		throw new Error(`the console did not say ${String(pattern)} in time`, {cause: error});
	} finally {
		changes.abort();
	}
};
