import {constants} from 'node:fs';
import fs, {type FileHandle} from 'node:fs/promises';
import {getSystemErrorMessage} from 'node:util';
import {asError, errnoOf, QuiesceError} from '../errors.ts';

/**
 * Opens a regular file for reading. A link is not followed and nothing else is opened (a pipe would stop us for ever):
 * what stands in a repository may have been put there by somebody else. The caller closes it.
 */
export async function openPlainFile(path: string): Promise<FileHandle> {
	const file = await fs.open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
	try {
		if ((await file.stat()).isFile()) return file;
	} catch (error) {
		await file.close();
		throw error;
	}
	await file.close();
	throw new QuiesceError('DAMAGED', `${path} is not a regular file`);
}

/** What the system said, in words and without the path: `no space left on device`. */
export function systemReason(error: unknown): string {
	if (errnoOf(error) === 'ELOOP') return 'it is a symbolic link';
	const {errno} = asError(error) as NodeJS.ErrnoException;
	return errno === undefined ? asError(error).message : getSystemErrorMessage(errno);
}

/** `cannot clone /x: no space left on device` */
export function fileFailure(doing: string, file: string, cause: unknown): QuiesceError {
	return new QuiesceError('FAILED', `cannot ${doing} ${file}: ${systemReason(cause)}`, {cause});
}
