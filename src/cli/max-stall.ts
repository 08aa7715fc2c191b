import {MAX_STALL_SECONDS} from '../cut/fleece.ts';
import {UsageError} from '../errors.ts';
import {parseDuration} from './quantities.ts';

/** The seconds of `--max-stall`. QEMU takes whole ones. */
export function parseMaxStall(text: string): number {
	const seconds = parseDuration(text, '--max-stall') / 1000;
	if (Number.isInteger(seconds) && seconds >= 1 && seconds <= MAX_STALL_SECONDS) return seconds;
	throw new UsageError(`--max-stall: '${text}' is not 1, 2, 3 or 4 seconds`, {
		hint: 'QEMU knows this bound in whole seconds, and 7.2 no more than 4.',
	});
}
