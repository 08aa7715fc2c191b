import type {ArchiveSource} from '../../operations/archive/archive-source.ts';

/** What `-` in the place of an archive is read as. */
export const STDIN = '/dev/stdin';

/** Where a command takes a point of a repository it also takes an archive: by its extension, or `-` for stdin. */
export function archiveNamed(text: string | undefined, index?: string): ArchiveSource | undefined {
	if (text === STDIN) return {kind: 'stream', stream: process.stdin, index};
	return text !== undefined && /\.vma(\.zst)?$/.test(text) ? {kind: 'file', path: text, index} : undefined;
}
