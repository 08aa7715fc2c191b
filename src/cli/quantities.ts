import {UsageError} from '../errors.ts';

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
const SECONDS = {ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400, w: 604_800} as const;

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
	const match = /^(?<number>\d+(?:\.\d+)?)\s*(?<unit>[kmgtp]?)(?:i?b)?$/i.exec(text.trim());
	const power = ['', 'k', 'm', 'g', 't', 'p'].indexOf(match?.groups?.['unit']?.toLowerCase() ?? '');
	const bytes = Math.round(Number(match?.groups?.['number']) * 1024 ** power);
	if (!match || !Number.isSafeInteger(bytes)) {
		throw new UsageError(`${option}: '${text}' is not a number of bytes`, {
			hint: 'Write it as 64M, 1.5GiB or 1048576.',
		});
	}
	return bytes;
}

/** `250ms`, `30s`, `5m`, `2h`; a plain number is seconds. Milliseconds. */
export function parseDuration(text: string, option: string): number {
	const match = /^(?<number>\d+(?:\.\d+)?)\s*(?<unit>ms|s|m|h|d|w)?$/.exec(text.trim());
	if (!match) {
		throw new UsageError(`${option}: '${text}' is not a duration`, {hint: 'Write it as 250ms, 30s, 5m or 2h.'});
	}
	const unit = (match.groups?.['unit'] ?? 's') as keyof typeof SECONDS;
	return Number(match.groups?.['number']) * SECONDS[unit] * 1000;
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
