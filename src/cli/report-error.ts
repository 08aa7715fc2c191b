import {asError, failuresIn, QuiesceError} from '../errors.ts';
import {exitCodeOf} from './exit-codes.ts';
import {printable} from './printable.ts';

export interface ErrorReport {
	readonly code: string;
	readonly exitCode: number;
	readonly message: string;
	readonly hint: string | undefined;
	/** Each a line of its own. */
	readonly problems: readonly string[];
	/** What went wrong after that, while cleaning up. */
	readonly also: readonly string[];
}

/** The one place where errors become words and exit codes. */
export function reportOf(error: unknown): ErrorReport {
	const [first, ...later] = failuresIn(error);
	const also = later.map(one => printable(asError(one).message));
	if (first instanceof QuiesceError) {
		const hint = first.hint === undefined ? undefined : printable(first.hint);
		const problems = first.problems.map(printable);
		return {
			code: first.code,
			exitCode: exitCodeOf(first.code),
			message: printable(first.message),
			problems,
			hint,
			also,
		};
	}
	return {
		code: 'BUG',
		exitCode: 1,
		message: `unexpected: ${printable(asError(first).message)}`,
		problems: [],
		hint: 'This is a defect of quiesce. Run it again with --debug and report what it prints.',
		also,
	};
}
