import {getSystemErrorMap} from 'node:util';
import {errnoOf, QuiesceError} from '../errors.ts';

/** "Error values": all that the protocol knows. */
export const NBD_ERRNO = {
	EPERM: 1,
	EIO: 5,
	ENOMEM: 12,
	EINVAL: 22,
	ENOSPC: 28,
	EOVERFLOW: 75,
	ENOTSUP: 95,
	ESHUTDOWN: 108,
} as const;

/** How the protocol calls those that it does not know, where it is not `EIO`. */
const ALIKE: Partial<Record<string, keyof typeof NBD_ERRNO>> = {
	EACCES: 'EPERM',
	EROFS: 'EPERM',
	EDQUOT: 'ENOSPC',
	EFBIG: 'ENOSPC',
	EOPNOTSUPP: 'ENOTSUP',
};

/** A request that is refused for itself, before anybody looks at the storage. */
export class RequestRefused extends Error {
	readonly errno: keyof typeof NBD_ERRNO;

	constructor(errno: keyof typeof NBD_ERRNO, message: string) {
		super(message);
		this.errno = errno;
	}
}

/** What a client is told of an error: nothing that names our files, unless it was made for people. */
export function toNbdError(error: unknown): {errno: number; text: string} {
	if (error instanceof RequestRefused) return {errno: NBD_ERRNO[error.errno], text: error.message};
	if (error instanceof QuiesceError) return {errno: NBD_ERRNO.EIO, text: error.message};
	const name = errnoOf(error) ?? 'EIO';
	const known = name in NBD_ERRNO ? (name as keyof typeof NBD_ERRNO) : ALIKE[name];
	return {errno: NBD_ERRNO[known ?? 'EIO'], text: wordsFor(name)};
}

function wordsFor(name: string): string {
	for (const [code, words] of getSystemErrorMap().values()) if (code === name) return words;
	return '';
}
