const PATTERN = /^(?<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}Z)(?:-(?<suffix>[2-9]|[1-9]\d{1,3}))?$/;

/** The id of the `nth` point, from 1, that is cut in the second of `time`: `2026-11-21T08-00-00Z`, then `…Z-2`. */
export function pointId(time: Date, nth: number): string {
	const second = `${time.toISOString().slice(0, 19).replaceAll(':', '-')}Z`;
	return nth === 1 ? second : `${second}-${nth}`;
}

export function isPointId(text: string): boolean {
	return PATTERN.test(text);
}

/** Oldest first. Needed because `…Z-10` is older than `…Z-9` as text. */
export function comparePointIds(one: string, other: string): number {
	const [a, b] = [parse(one), parse(other)];
	if (a.time !== b.time) return a.time < b.time ? -1 : 1;
	return a.nth - b.nth;
}

/** The second in which the point was begun. */
export function timeOfPointId(id: string): Date {
	const [day = '', clock = ''] = parse(id).time.split('T');
	return new Date(`${day}T${clock.replaceAll('-', ':')}`);
}

function parse(id: string): {time: string; nth: number} {
	const groups = PATTERN.exec(id)?.groups;
	return {time: groups?.['time'] ?? id, nth: Number(groups?.['suffix'] ?? 1)};
}
