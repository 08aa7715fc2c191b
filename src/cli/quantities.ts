import {readBytes, readDuration} from '../config/quantities.ts';
import {UsageError} from '../errors.ts';

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** `1536` → `1.5 KiB`, with at most four figures. */
export function formatBytes(bytes: number): string {
	let value = bytes;
	let unit = 0;
	while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
		value /= 1024;
		unit++;
	}
	const digits = unit === 0 || value >= 100 ? 0 : 1;
	return `${value.toFixed(digits)} ${BYTE_UNITS[unit] ?? ''}`;
}

/** `1M`, `1MiB` and `1m` are 1,048,576; a plain number is bytes. */
export function parseBytes(text: string, option: string): number {
	const bytes = readBytes(text);
	if (bytes !== undefined) return bytes;
	throw new UsageError(`${option}: '${text}' is not a number of bytes`, {hint: 'Write it as 64M, 1.5GiB or 1048576.'});
}

/** `250ms`, `30s`, `5m`, `2h`; a plain number is seconds. Milliseconds. */
export function parseDuration(text: string, option: string): number {
	const ms = readDuration(text);
	if (ms !== undefined) return ms;
	throw new UsageError(`${option}: '${text}' is not a duration`, {hint: 'Write it as 250ms, 30s, 5m or 2h.'});
}

/** `0.0042` → `4.2 ms`; `75` → `1 min 15 s`. */
export function formatSeconds(seconds: number): string {
	if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
	if (seconds < 60) return `${seconds.toFixed(1)} s`;
	const minutes = Math.floor(seconds / 60);
	const rest = `${Math.floor(seconds % 60)} s`;
	return minutes < 60 ? `${minutes} min ${rest}` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** `1 point`, `2 points`. */
export function countOf(number: number, singular: string): string {
	return `${number} ${singular}${number === 1 ? '' : 's'}`;
}
