import {type ErrorDetails, QuiesceError} from '../errors.ts';

/** An NBD server went away, or what it sent is not the protocol. The connection is closed, and all requests on it fail. */
export class NbdError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('FAILED', message, details);
	}
}

/** The server could not do what one request asked of it. The connection stands. */
export class NbdRequestError extends NbdError {
	/** Linux's number of the error: 5 for one of storage, which is also how QEMU tells of data that it cannot decompress. */
	readonly errno: number;

	constructor(message: string, errno: number, details?: ErrorDetails) {
		super(message, details);
		this.errno = errno;
	}
}
