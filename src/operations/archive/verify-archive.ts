import type {Observable} from 'rxjs';
import {QuiesceError} from '../../errors.ts';
import {streamTask} from '../../rx/task-stream.ts';
import {type ArchiveSource, openArchiveSource} from './archive-source.ts';

export interface ArchiveVerification {
	/** Whether the data was compared with checksums, or only the structure looked at. */
	readonly checked: 'by-index' | 'not-at-all';
	readonly clusters: number;
	/** Before decompression. */
	readonly bytesRead: number;
	/** Undefined where it is sound. */
	readonly problem: string | undefined;
}

export type VerifyArchiveMessage =
	| {readonly kind: 'progress'; readonly bytesRead: number; readonly bytesTotal: number | undefined}
	| ({readonly kind: 'finished'} & ArchiveVerification);

/** How often progress is told of, in clusters. */
const EVERY = 1024;

/**
 * Reads an archive to its end: its header, its extents, that each cluster of each disk is there once, and the data, where
 * there is an index to compare it with. Cold. Damage is the result, and not thrown.
 */
export function verifyArchive(source: ArchiveSource, signal: AbortSignal): Observable<VerifyArchiveMessage> {
	return streamTask<VerifyArchiveMessage>(signal, async (emit, ended) => {
		let clusters = 0;
		const archive = await openArchiveSource(source, ended);
		const {checked} = archive;
		let problem: string | undefined;
		try {
			for await (const event of archive.events) {
				if (event.kind !== 'cluster') continue;
				if (clusters++ % EVERY === 0) emit({kind: 'progress', ...archive.progress()});
			}
		} catch (error) {
			ended.throwIfAborted();
			if (!(error instanceof QuiesceError) || error.code !== 'DAMAGED') throw error;
			problem = error.message;
		} finally {
			await archive.close();
		}
		emit({kind: 'finished', checked, clusters, bytesRead: archive.progress().bytesRead, problem});
	});
}
