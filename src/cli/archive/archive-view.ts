import type {ProgressView} from '../progress-lines.ts';

export const NO_INDEX = 'there is no index, so the data is compared with nothing';

/** How much of an archive is read; of one that comes over a pipe nobody knows how much there is. */
export function showArchive(
	{bytesRead, bytesTotal = bytesRead}: {readonly bytesRead: number; readonly bytesTotal: number | undefined},
	view: ProgressView,
): void {
	view.show([{name: 'archive', doneBytes: bytesRead, totalBytes: bytesTotal}]);
}
