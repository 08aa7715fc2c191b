import {MAX_STALL_SECONDS} from '../cut/fleece.ts';
import {UsageError} from '../errors.ts';
import type {CopyRequest} from '../operations/copy-task.ts';
import {parseBytes, parseDuration} from './quantities.ts';

/** Those of the commands that copy what they have cut. What each is for the command itself says. */
export interface CopyOptions {
	readonly maxStall: string;
	readonly targetTimeout?: string | undefined;
	readonly speed?: string | undefined;
}

/** How the copy is to be made. */
export function copyWishes({
	maxStall,
	targetTimeout,
	speed,
}: CopyOptions): Pick<CopyRequest, 'maxStallSeconds' | 'targetTimeoutMs' | 'speedBytesPerSecond'> {
	return {
		maxStallSeconds: parseMaxStall(maxStall),
		targetTimeoutMs: targetTimeout === undefined ? undefined : parseDuration(targetTimeout, '--target-timeout'),
		speedBytesPerSecond: speed === undefined ? undefined : parseBytes(speed, '--speed'),
	};
}

/** The seconds of `--max-stall`. QEMU takes whole ones. */
export function parseMaxStall(text: string): number {
	const seconds = parseDuration(text, '--max-stall') / 1000;
	if (Number.isInteger(seconds) && seconds >= 1 && seconds <= MAX_STALL_SECONDS) return seconds;
	throw new UsageError(`--max-stall: '${text}' is not 1, 2, 3 or 4 seconds`, {
		hint: 'QEMU knows this bound in whole seconds, and 7.2 no more than 4.',
	});
}
