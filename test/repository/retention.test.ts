import fc from 'fast-check';
import {describe, expect, onTestFinished, test, vi} from 'vitest';
import {pointId} from '../../src/repository/point-id.ts';
import {applyRetention, type DatedPoint, type RetentionRules} from '../../src/repository/retention.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

describe('in Berlin', () => {
	test('without a rule everything is kept', () => {
		inZone('Europe/Berlin');
		const points = [point('2026-11-20T08:00:00Z'), point('2026-11-21T08:00:00Z', {isProtected: true})];
		const verdicts = [
			{id: '2026-11-21T08-00-00Z', decision: 'keep', why: 'protected'},
			{id: '2026-11-20T08-00-00Z', decision: 'keep', why: 'no rule is given'},
		];
		expect(applyRetention(points, {})).toEqual(verdicts);
		expect(applyRetention(points, {withinMs: 0, last: 0, daily: 0, yearly: undefined})).toEqual(verdicts);
		expect(applyRetention([], {last: 1})).toEqual([]);
	});

	test('the last are kept, and of one time those of the highest number', () => {
		inZone('Europe/Berlin');
		const time = new Date('2026-11-21T08:00:00Z');
		const points = [1, 9, 10, 2].map(nth => ({id: pointId(time, nth), time, isProtected: false}));
		expect(reasons([point('2026-11-20T08:00:00Z'), ...points], {last: 2})).toEqual([
			['2026-11-21T08-00-00Z-10', '--keep-last: 1 of 2'],
			['2026-11-21T08-00-00Z-9', '--keep-last: 2 of 2'],
			['2026-11-21T08-00-00Z-2', null],
			['2026-11-21T08-00-00Z', null],
			['2026-11-20T08-00-00Z', null],
		]);
	});

	test('the time decides before the id does', () => {
		inZone('Europe/Berlin');
		const points = [
			{...point('2026-11-21T08:00:00Z'), time: new Date('2026-11-21T08:00:00.900Z')},
			{...point('2026-11-21T08:00:00Z'), id: '2026-11-21T08-00-00Z-2'},
		];
		expect(applyRetention(points, {last: 1})[0]).toMatchObject({id: '2026-11-21T08-00-00Z', decision: 'keep'});
	});

	test.each<[keyof RetentionRules, string[], [string, string | null][]]>([
		[
			'hourly',
			['2026-11-21T08:59:59Z', '2026-11-21T08:00:00Z', '2026-11-21T07:59:59Z', '2026-11-21T05:00:00Z'],
			[
				['2026-11-21T08-59-59Z', '--keep-hourly: 1 of 2, hour 2026-11-21 09:00'],
				['2026-11-21T08-00-00Z', null],
				['2026-11-21T07-59-59Z', '--keep-hourly: 2 of 2, hour 2026-11-21 08:00'],
				['2026-11-21T05-00-00Z', null],
			],
		],
		[
			'daily',
			['2026-11-21T08:00:00Z', '2026-11-20T23:00:00Z', '2026-11-20T22:59:59Z', '2026-11-10T08:00:00Z'],
			[
				['2026-11-21T08-00-00Z', '--keep-daily: 1 of 2, day 2026-11-21'],
				['2026-11-20T23-00-00Z', null],
				['2026-11-20T22-59-59Z', '--keep-daily: 2 of 2, day 2026-11-20'],
				['2026-11-10T08-00-00Z', null],
			],
		],
		[
			'weekly',
			['2026-11-22T22:00:00Z', '2026-11-15T23:00:00Z', '2026-11-15T22:59:59Z', '2026-11-01T08:00:00Z'],
			[
				['2026-11-22T22-00-00Z', '--keep-weekly: 1 of 2, week 2026-W47'],
				['2026-11-15T23-00-00Z', null],
				['2026-11-15T22-59-59Z', '--keep-weekly: 2 of 2, week 2026-W46'],
				['2026-11-01T08-00-00Z', null],
			],
		],
		[
			'monthly',
			['2024-03-01T08:00:00Z', '2024-02-29T23:00:00Z', '2024-02-29T22:59:59Z', '2023-03-15T08:00:00Z'],
			[
				['2024-03-01T08-00-00Z', '--keep-monthly: 1 of 2, month 2024-03'],
				['2024-02-29T23-00-00Z', null],
				['2024-02-29T22-59-59Z', '--keep-monthly: 2 of 2, month 2024-02'],
				['2023-03-15T08-00-00Z', null],
			],
		],
		[
			'yearly',
			['2026-11-21T08:00:00Z', '2025-12-31T23:00:00Z', '2025-12-31T22:59:59Z', '2020-01-01T08:00:00Z'],
			[
				['2026-11-21T08-00-00Z', '--keep-yearly: 1 of 2, year 2026'],
				['2025-12-31T23-00-00Z', null],
				['2025-12-31T22-59-59Z', '--keep-yearly: 2 of 2, year 2025'],
				['2020-01-01T08-00-00Z', null],
			],
		],
	])('%s keeps the newest of so many periods of local time that have a point', (rule, times, expected) => {
		inZone('Europe/Berlin');
		expect(reasons(pointsAt(times), {[rule]: 2})).toEqual(expected);
	});

	test('a year may have 53 weeks, and week 1 may begin in the year before', () => {
		inZone('Europe/Berlin');
		const times = [
			'2025-01-01T08:00:00Z',
			'2024-12-30T08:00:00Z',
			'2024-12-29T08:00:00Z',
			'2021-01-03T08:00:00Z',
			'2020-12-28T08:00:00Z',
			'2020-12-27T08:00:00Z',
		];
		expect(reasons(pointsAt(times), {weekly: 9})).toEqual([
			['2025-01-01T08-00-00Z', '--keep-weekly: 1 of 9, week 2025-W01'],
			['2024-12-30T08-00-00Z', null],
			['2024-12-29T08-00-00Z', '--keep-weekly: 2 of 9, week 2024-W52'],
			['2021-01-03T08-00-00Z', '--keep-weekly: 3 of 9, week 2020-W53'],
			['2020-12-28T08-00-00Z', null],
			['2020-12-27T08-00-00Z', '--keep-weekly: 4 of 9, week 2020-W52'],
		]);
	});

	test('a period that an earlier rule has kept a point of does not count', () => {
		inZone('Europe/Berlin');
		const times = [
			'2026-11-21T20:00:00Z',
			'2026-11-21T08:00:00Z',
			'2026-11-20T20:00:00Z',
			'2026-11-20T08:00:00Z',
			'2026-11-19T08:00:00Z',
			'2026-10-31T08:00:00Z',
			'2026-10-30T08:00:00Z',
			'2025-10-30T08:00:00Z',
		];
		expect(applyRetention(pointsAt(times), {last: 1, daily: 1, monthly: 1})).toEqual([
			{id: '2026-11-21T20-00-00Z', decision: 'keep', why: '--keep-last: 1 of 1'},
			{
				id: '2026-11-21T08-00-00Z',
				decision: 'remove',
				why: '--keep-daily: day 2026-11-21 is covered by 2026-11-21T20-00-00Z',
			},
			{id: '2026-11-20T20-00-00Z', decision: 'keep', why: '--keep-daily: 1 of 1, day 2026-11-20'},
			{
				id: '2026-11-20T08-00-00Z',
				decision: 'remove',
				why: '--keep-daily: day 2026-11-20 is covered by 2026-11-20T20-00-00Z',
			},
			{
				id: '2026-11-19T08-00-00Z',
				decision: 'remove',
				why: '--keep-monthly: month 2026-11 is covered by 2026-11-21T20-00-00Z',
			},
			{id: '2026-10-31T08-00-00Z', decision: 'keep', why: '--keep-monthly: 1 of 1, month 2026-10'},
			{
				id: '2026-10-30T08-00-00Z',
				decision: 'remove',
				why: '--keep-monthly: month 2026-10 is covered by 2026-10-31T08-00-00Z',
			},
			{id: '2025-10-30T08-00-00Z', decision: 'remove', why: 'no rule keeps it'},
		]);
	});

	test('what a week has left out does not stand for its month, what a kept point covers may', () => {
		inZone('Europe/Berlin');
		// Monday and Tuesday of one week; the Sunday before.
		const points = pointsAt(['2026-12-01T08:00:00Z', '2026-11-30T08:00:00Z', '2026-11-29T08:00:00Z']);
		expect(reasons(points, {weekly: 1, monthly: 1})).toEqual([
			['2026-12-01T08-00-00Z', '--keep-weekly: 1 of 1, week 2026-W49'],
			['2026-11-30T08-00-00Z', null],
			['2026-11-29T08-00-00Z', '--keep-monthly: 1 of 1, month 2026-11'],
		]);
		expect(reasons(points.slice(0, 2), {last: 1, weekly: 1, monthly: 1})).toEqual([
			['2026-12-01T08-00-00Z', '--keep-last: 1 of 1'],
			['2026-11-30T08-00-00Z', '--keep-monthly: 1 of 1, month 2026-11'],
		]);
	});

	test('protected points stay, count nothing and cover nothing', () => {
		inZone('Europe/Berlin');
		const points = [
			point('2026-11-21T20:00:00Z', {isProtected: true}),
			point('2026-11-21T08:00:00Z'),
			point('2026-11-20T20:00:00Z', {isProtected: true}),
			point('2026-11-20T08:00:00Z'),
		];
		expect(reasons(points, {daily: 1})).toEqual([
			['2026-11-21T20-00-00Z', 'protected'],
			['2026-11-21T08-00-00Z', '--keep-daily: 1 of 1, day 2026-11-21'],
			['2026-11-20T20-00-00Z', 'protected'],
			['2026-11-20T08-00-00Z', null],
		]);
	});

	test('what is not older than asked before the newest point is kept, and covers its periods', () => {
		inZone('Europe/Berlin');
		const points = [
			point('2026-11-21T20:00:00Z', {isProtected: true}),
			point('2026-11-21T08:00:00Z'),
			point('2026-11-20T20:00:00Z'),
			point('2026-11-20T19:59:59Z'),
			point('2026-11-19T08:00:00Z'),
			point('2026-11-18T08:00:00Z'),
		];
		expect(reasons(points, {withinMs: DAY, last: 1, daily: 1})).toEqual([
			['2026-11-21T20-00-00Z', 'protected'],
			['2026-11-21T08-00-00Z', '--keep-within: since 2026-11-20 21:00:00'],
			['2026-11-20T20-00-00Z', '--keep-within: since 2026-11-20 21:00:00'],
			['2026-11-20T19-59-59Z', '--keep-last: 1 of 1'],
			['2026-11-19T08-00-00Z', '--keep-daily: 1 of 1, day 2026-11-19'],
			['2026-11-18T08-00-00Z', null],
		]);
		expect(applyRetention(points, {withinMs: Infinity}).every(({decision}) => decision === 'keep')).toBe(true);
	});

	test('the hour that the end of summer time repeats is one', () => {
		inZone('Europe/Berlin');
		const times = ['2026-10-25T01:30:00Z', '2026-10-25T00:30:00Z', '2026-10-24T23:30:00Z'];
		expect(reasons(pointsAt(times), {hourly: 3})).toEqual([
			['2026-10-25T01-30-00Z', '--keep-hourly: 1 of 3, hour 2026-10-25 02:00'],
			['2026-10-25T00-30-00Z', null],
			['2026-10-24T23-30-00Z', '--keep-hourly: 2 of 3, hour 2026-10-25 01:00'],
		]);
	});
});

/** Around which times something happens: clocks change, leap days and years begin or end. */
const INSTANTS = {
	'UTC': ['2024-02-29T00:00:00Z', '2000-03-01T00:00:00Z', '2021-01-01T00:00:00Z'],
	'Europe/Berlin': ['2026-03-29T01:00:00Z', '2026-10-25T01:00:00Z', '2024-02-29T23:00:00Z', '2026-12-31T23:00:00Z'],
	'America/New_York': ['2026-03-08T07:00:00Z', '2026-11-01T06:00:00Z', '2024-03-01T05:00:00Z', '2025-01-01T05:00:00Z'],
	// By half an hour.
	'Australia/Lord_Howe': ['2026-04-04T15:00:00Z', '2026-10-03T15:30:00Z', '2024-02-28T13:00:00Z'],
	// Has no 30 December 2011.
	'Pacific/Apia': ['2011-12-30T10:00:00Z', '2012-03-31T14:00:00Z', '2012-02-28T10:00:00Z', '2015-12-31T10:00:00Z'],
} as const;

describe.each(Object.entries(INSTANTS))('%s', (zone, instants) => {
	test('any history is kept as a slow model says, by the same rule with the same count', {timeout: 60_000}, () => {
		inZone(zone);
		const model = modelOf(zone);
		fc.assert(
			fc.property(history(instants), rules, (points, given) => {
				const verdicts = applyRetention(points, given);
				// The model knows no periods by name.
				const told = verdicts.map(({id, decision, why}) => [id, decision === 'keep' ? why.split(',')[0] : null]);
				expect(told).toEqual(model(points, given));
			}),
			{numRuns: 2000},
		);
	});
});

interface NumberedPoint extends DatedPoint {
	readonly nth: number;
}

function history(instants: readonly string[]): fc.Arbitrary<NumberedPoint[]> {
	const instant = fc.constantFrom(...instants).map(text => Date.parse(text));
	const steps = (unit: number, most: number) => fc.integer({min: -most, max: most}).map(steps => steps * unit);
	const distance = fc.oneof(
		steps(SECOND, 2),
		steps(10 * MINUTE, 24),
		fc
			.tuple(fc.oneof(steps(HOUR, 48), steps(DAY, 70), steps(30 * DAY, 40)), steps(SECOND, 1))
			.map(([far, near]) => far + near),
	);
	const scattered = fc
		.tuple(instant, fc.array(distance, {maxLength: 16}))
		.map(([start, distances]) => distances.map(distance => start + distance));
	const regular = fc
		.tuple(
			instant,
			steps(30 * MINUTE, 48),
			fc.constantFrom(20 * MINUTE, HOUR, 5 * HOUR, 12 * HOUR, DAY, 3 * DAY, 7 * DAY, 20 * DAY),
			fc.integer({min: 1, max: 20}),
		)
		.map(([start, shift, step, count]) =>
			Array.from({length: count}, (_, index) => start + shift + (index - count / 2) * step),
		);
	const times = fc.oneof(
		scattered,
		regular,
		fc.tuple(scattered, regular).map(parts => parts.flat()),
	);
	const protectedOnes = fc.array(fc.nat({max: 30}), {maxLength: 6});
	return fc.tuple(times, protectedOnes).map(([all, indexes]) => {
		const seen = new Map<string, number>();
		return all.map((ms, index) => {
			const time = new Date(ms);
			const nth = (seen.get(pointId(time, 1)) ?? 0) + 1;
			seen.set(pointId(time, 1), nth);
			return {id: pointId(time, nth), nth, time, isProtected: indexes.includes(index)};
		});
	});
}

const count = fc.option(fc.integer({min: 0, max: 4}), {nil: undefined});
const rules: fc.Arbitrary<RetentionRules> = fc.record({
	withinMs: fc.option(fc.constantFrom(0, 1, SECOND, 20 * MINUTE, 3 * HOUR, DAY, 3 * DAY, 40 * DAY), {nil: undefined}),
	last: count,
	hourly: count,
	daily: count,
	weekly: count,
	monthly: count,
	yearly: count,
});

/** What a clock and a calendar on the wall show. */
interface Wall {
	readonly year: number;
	readonly month: number;
	readonly hour: number;
	/** Since 1 January 1970, a Thursday. */
	readonly day: number;
}

const SAME_PERIOD: readonly [string, (one: Wall, other: Wall) => boolean][] = [
	['hourly', (one, other) => one.day === other.day && one.hour === other.hour],
	['daily', (one, other) => one.day === other.day],
	// Whose last Monday is the same.
	['weekly', (one, other) => Math.floor((one.day + 3) / 7) === Math.floor((other.day + 3) / 7)],
	['monthly', (one, other) => one.year === other.year && one.month === other.month],
	['yearly', (one, other) => one.year === other.year],
];

/** Each point, newest first, and why it is kept, or null. Every decision is made from the definition alone. */
function modelOf(zone: string) {
	const format = new Intl.DateTimeFormat('en-GB', {
		timeZone: zone,
		hourCycle: 'h23',
		year: 'numeric',
		month: 'numeric',
		day: 'numeric',
		hour: 'numeric',
	});

	function wallOf({time}: NumberedPoint): Wall {
		const [dayOfMonth, month, year, hour] = Array.from(format.format(time).matchAll(/\d+/g), Number);
		return {year: year!, month: month!, hour: hour!, day: dayNumber(year!, month!, dayOfMonth!)};
	}

	return function keptBy(points: readonly NumberedPoint[], given: RetentionRules): [string, string | null][] {
		const ordered = Array.from(points).sort((one, other) => (isNewer(one, other) ? -1 : 1));
		const mortal = ordered.filter(({isProtected}) => !isProtected);
		const wall = new Map(mortal.map(point => [point, wallOf(point)]));
		const kept = new Map<NumberedPoint, string>();
		const out = new Set<NumberedPoint>();

		const oldestKept = Number(ordered[0]?.time) - (given.withinMs ?? 0);
		if (given.withinMs) {
			for (const point of mortal.filter(({time}) => Number(time) >= oldestKept)) {
				kept.set(point, `--keep-within: since ${clockAndDay(zone, oldestKept)}`);
			}
		}
		const others = mortal.filter(point => !kept.has(point));
		for (const point of others) {
			const rank = 1 + others.filter(other => isNewer(other, point)).length;
			if (rank <= (given.last ?? 0)) kept.set(point, `--keep-last: ${rank} of ${given.last!}`);
		}
		for (const [rule, isSame] of SAME_PERIOD) {
			const most = given[rule as keyof RetentionRules] ?? 0;
			const together = (one: NumberedPoint, other: NumberedPoint) => isSame(wall.get(one)!, wall.get(other)!);
			const before = [...kept.keys()];
			const open = mortal.filter(
				point => !kept.has(point) && !out.has(point) && !before.some(other => together(other, point)),
			);
			const isFirst = (point: NumberedPoint) => !open.some(other => isNewer(other, point) && together(other, point));
			const firsts = open.filter(isFirst);
			const rankOf = (point: NumberedPoint) => 1 + firsts.filter(other => isNewer(other, point)).length;
			for (const first of firsts.filter(point => rankOf(point) <= most)) {
				kept.set(first, `--keep-${rule}: ${rankOf(first)} of ${most}`);
				for (const point of open) if (point !== first && together(point, first)) out.add(point);
			}
		}

		const isRuled = Object.values(given).some(rule => rule);
		return ordered.map(point => {
			if (point.isProtected) return [point.id, 'protected'];
			return [point.id, isRuled ? (kept.get(point) ?? null) : 'no rule is given'];
		});
	};
}

function isNewer(one: NumberedPoint, other: NumberedPoint): boolean {
	return one.time > other.time || (Number(one.time) === Number(other.time) && one.nth > other.nth);
}

/** Counted, not calculated. */
function dayNumber(year: number, month: number, dayOfMonth: number): number {
	const isLeap = (of: number) => of % 4 === 0 && (of % 100 !== 0 || of % 400 === 0);
	let days = dayOfMonth - 1;
	for (let before = 1970; before < year; before++) days += isLeap(before) ? 366 : 365;
	const lengths = [31, isLeap(year) ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
	for (const length of lengths.slice(0, month - 1)) days += length;
	return days;
}

function clockAndDay(zone: string, ms: number): string {
	return new Intl.DateTimeFormat('sv-SE', {timeZone: zone, dateStyle: 'short', timeStyle: 'medium'}).format(ms);
}

/** Makes it the time zone of the process until the test ends. */
function inZone(zone: string): void {
	vi.stubEnv('TZ', zone);
	onTestFinished(() => {
		vi.unstubAllEnvs();
	});
	expect(new Intl.DateTimeFormat().resolvedOptions().timeZone).toBe(zone);
}

function point(time: string, {isProtected = false} = {}): DatedPoint {
	return {id: pointId(new Date(time), 1), time: new Date(time), isProtected};
}

function pointsAt(times: readonly string[]): DatedPoint[] {
	return times.map(time => point(time));
}

/** The points, newest first, and why each is kept; null for those that are not. */
function reasons(points: readonly DatedPoint[], rules: RetentionRules): [string, string | null][] {
	return applyRetention(points, rules).map(({id, decision, why}) => [id, decision === 'keep' ? why : null]);
}
