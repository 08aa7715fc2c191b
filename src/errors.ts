/** The kinds of failure that a caller, or the operator's script, can tell apart. Stable; messages are not. */
export type ErrorCode =
	| 'USAGE'
	| 'FAILED'
	| 'CANCELLED'
	| 'NO_REPOSITORY'
	| 'LOCKED'
	| 'UNREACHABLE'
	| 'REFUSED'
	| 'JOB_FAILED'
	| 'VM_LOST'
	| 'AGENT'
	| 'DAMAGED';

export interface ErrorDetails extends ErrorOptions {
	/** One sentence: what to try next. */
	readonly hint?: string | undefined;
	/** All that is wrong, where the message only says in what: each a line of its own. */
	readonly problems?: readonly string[] | undefined;
}

/**
 * Every error this program raises on purpose. The message says what failed, on which object and why, so that it can be
 * shown to the operator as it is; anything else that is thrown is a bug of ours.
 */
export class QuiesceError extends Error {
	readonly code: ErrorCode;
	readonly hint: string | undefined;
	readonly problems: readonly string[];

	constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
		super(message, details);
		this.name = new.target.name;
		this.code = code;
		this.hint = details.hint;
		this.problems = details.problems ?? [];
	}
}

/** The operator asked for something that cannot be meant. Nothing was done. */
export class UsageError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('USAGE', message, details);
	}
}

/** The operator, or a signal, ended the run. What had been started is undone. */
export class CancelledError extends QuiesceError {
	constructor(message = 'cancelled', details?: ErrorDetails) {
		super('CANCELLED', message, details);
	}
}

/** `error` as something with a message, whatever was thrown. */
export function asError(error: unknown): Error {
	return error instanceof Error ? error : new Error(String(error));
}

/** What failed, the first first: scopes wrap it together with what then failed while they were released. */
export function failuresIn(error: unknown): unknown[] {
	return error instanceof AggregateError && error.errors.length > 0 ? error.errors.flatMap(failuresIn) : [error];
}

/** The system's name of a failed call, such as `ENOENT`. Our own errors have none. */
export function errnoOf(error: unknown): string | undefined {
	if (!(error instanceof Error) || error instanceof QuiesceError) return undefined;
	return 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
