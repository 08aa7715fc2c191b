import type {ErrorCode} from '../errors.ts';

/**
 * What the program's exit status tells a script. Documented in docs/json-and-exit-codes.md; numbers may be added, and an
 * unknown one means failure.
 */
const EXIT_CODES: Record<ErrorCode, number> = {
	FAILED: 1,
	USAGE: 2,
	NO_REPOSITORY: 10,
	LOCKED: 11,
	UNREACHABLE: 20,
	REFUSED: 21,
	JOB_FAILED: 22,
	VM_LOST: 23,
	AGENT: 24,
	DAMAGED: 30,
	CANCELLED: 130,
};

export function exitCodeOf(code: ErrorCode): number {
	return EXIT_CODES[code];
}
