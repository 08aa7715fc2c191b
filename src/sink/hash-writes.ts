import {DEPTH_CONTEXT, ZERO_CONTEXT} from '../images/cluster-runs.ts';
import {hashContent} from '../images/hash-content.ts';
import {NbdClient} from '../nbd/client.ts';
import {QuiesceError} from '../errors.ts';
import type {SinkDisk} from './sink.ts';

/** For so long a file system may keep us waiting for data that was just written to it. */
const STALL_MS = 300_000;

/** An export that shows an image, and the context in which it tells what of it was written. */
export interface WrittenExport {
	readonly socket: string;
	readonly name: string;
	readonly context: string;
}

export const STORED_CONTEXT = DEPTH_CONTEXT;

/** Reads what was written to a disk's image, and hands its hashes over. */
export async function hashWrites(
	{name: disk, base, keepHashes}: SinkDisk,
	{socket, name, context}: WrittenExport,
	signal: AbortSignal | undefined,
): Promise<void> {
	const stalled = new AbortController();
	const stall = (): void => {
		stalled.abort(new QuiesceError('FAILED', `the image of ${disk} could not be read for ${STALL_MS / 1000} s`));
	};
	const timer = setTimeout(stall, STALL_MS);
	const both = signal ? AbortSignal.any([signal, stalled.signal]) : stalled.signal;
	try {
		const client = await NbdClient.connect({unix: socket}, name, {metaContexts: [ZERO_CONTEXT, context], signal: both});
		try {
			// What an image on another one does not say is zero would be that of the other.
			const zeroes = base ? 'record' : 'omit';
			await keepHashes(hashContent(client, {context, zeroes, onProgress: () => timer.refresh()}));
		} finally {
			await client.close();
		}
	} finally {
		clearTimeout(timer);
	}
}
