const SECONDS = {ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400, w: 604_800} as const;

/** `250ms`, `30s`, `5m`, `2h`, `7d`, `8w`; a plain number is seconds. Milliseconds; undefined if it is none. */
export function readDuration(text: string): number | undefined {
	const match = /^(?<number>\d+(?:\.\d+)?)\s*(?<unit>ms|s|m|h|d|w)?$/.exec(text.trim());
	if (!match) return undefined;
	const unit = (match.groups?.['unit'] ?? 's') as keyof typeof SECONDS;
	return Number(match.groups?.['number']) * SECONDS[unit] * 1000;
}

/** `1M`, `1MiB` and `1m` are 1,048,576; a plain number is bytes. Undefined if it is none. */
export function readBytes(text: string): number | undefined {
	const match = /^(?<number>\d+(?:\.\d+)?)\s*(?<unit>[kmgtp]?)(?:i?b)?$/i.exec(text.trim());
	const power = ['', 'k', 'm', 'g', 't', 'p'].indexOf(match?.groups?.['unit']?.toLowerCase() ?? '');
	const bytes = Math.round(Number(match?.groups?.['number']) * 1024 ** power);
	return match && Number.isSafeInteger(bytes) ? bytes : undefined;
}
