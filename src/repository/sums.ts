import {QuiesceError} from '../errors.ts';
import {PLAIN_NAME} from './layout.ts';

/** SHA256SUMS as `sha256sum -c` reads it, sorted by file name. */
export function formatSums(sums: ReadonlyMap<string, string>): string {
	return [...sums]
		.sort(([one], [other]) => (one < other ? -1 : 1))
		.map(([file, sha256]) => `${sha256}  ${file}\n`)
		.join('');
}

/** The SHA-256 of each file, by its name. Throws `DAMAGED` if anything but plain names stands in it. */
export function parseSums(text: string, what: string): ReadonlyMap<string, string> {
	const sums = new Map<string, string>();
	for (const [index, line] of text.split('\n').entries()) {
		if (line === '') continue;
		const {sha256, file} = /^(?<sha256>[0-9a-f]{64}) [ *](?<file>.+)$/.exec(line)?.groups ?? {};
		if (sha256 === undefined || file === undefined || !PLAIN_NAME.test(file) || sums.has(file)) {
			throw new QuiesceError('DAMAGED', `${what} cannot be read: line ${index + 1}`);
		}
		sums.set(file, sha256);
	}
	return sums;
}
