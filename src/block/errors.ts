import {QuiesceError} from '../errors.ts';

/** What QEMU says of its block graph does not fit together: the graph changed while it was read, or QEMU lies. */
export class BlockGraphError extends QuiesceError {
	constructor(message: string) {
		super('FAILED', `QEMU's block graph does not fit together: ${message}`);
	}
}
