import {type ErrorDetails, QuiesceError} from '../errors.ts';

/** The state of RAM and devices could not be saved or loaded. */
export class MigrationError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('FAILED', message, details);
	}
}
