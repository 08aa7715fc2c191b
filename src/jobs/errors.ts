import {type ErrorDetails, QuiesceError} from '../errors.ts';

/** A block job of ours did not do its work. */
export class JobError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('JOB_FAILED', message, details);
	}
}
