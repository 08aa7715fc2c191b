import {QuiesceError} from '../errors.ts';

/** An archive that is not whole, or not what it should be. */
export class VmaDamagedError extends QuiesceError {
	/** In the archive before compression: where what was expected is missing. */
	readonly offset: number;

	/** `what` tells what was expected there and what was found. */
	constructor(offset: number, what: string, options: ErrorOptions = {}) {
		super('DAMAGED', `the VMA archive is damaged at byte ${offset}: ${what}`, options);
		this.offset = offset;
	}
}

/** The index of an archive is not whole, or is that of another one. */
export class VmaIndexError extends QuiesceError {
	constructor(what: string, options: ErrorOptions = {}) {
		super('DAMAGED', `the index of the VMA archive ${what}`, {
			...options,
			hint: 'Without its index the archive can still be read, but its data cannot be checked.',
		});
	}
}
