import {comparePointIds} from './point-id.ts';

/** How many points to keep by each rule, applied in this order. A rule of 0 is no rule. */
export interface RetentionRules {
	/** All that are not older than this before the newest point. */
	readonly withinMs?: number | undefined;
	/** The newest, besides those that `withinMs` keeps. */
	readonly last?: number | undefined;
	/** The newest of each of so many hours that have a point; so on for the rest. Weeks are those of ISO 8601. */
	readonly hourly?: number | undefined;
	readonly daily?: number | undefined;
	readonly weekly?: number | undefined;
	readonly monthly?: number | undefined;
	readonly yearly?: number | undefined;
}

export interface DatedPoint {
	readonly id: string;
	readonly time: Date;
	readonly isProtected: boolean;
}

export interface RetentionVerdict {
	readonly id: string;
	readonly decision: 'keep' | 'remove';
	/** For people: `--keep-daily: 3 of 7, day 2026-11-21`, `protected`, `no rule keeps it`. */
	readonly why: string;
}

interface Candidate {
	readonly point: DatedPoint;
	/** `open` until a rule keeps it, or keeps another in its place. */
	decision: 'keep' | 'remove' | 'open';
	why: string;
}

interface Period {
	readonly rule: 'hourly' | 'daily' | 'weekly' | 'monthly' | 'yearly';
	readonly unit: string;
	/** The period of a time, in the time zone of the process. */
	readonly nameOf: (time: Date) => string;
}

const UNKEPT = 'no rule keeps it';

const PERIODS: readonly Period[] = [
	{rule: 'hourly', unit: 'hour', nameOf: hourOf},
	{rule: 'daily', unit: 'day', nameOf: dayOf},
	{rule: 'weekly', unit: 'week', nameOf: isoWeekOf},
	{rule: 'monthly', unit: 'month', nameOf: time => dayOf(time).slice(0, -3)},
	{rule: 'yearly', unit: 'year', nameOf: yearOf},
];

/**
 * Decides as Proxmox Backup Server does which points are kept; newest first. Protected points are kept and otherwise
 * ignored, except that `withinMs` counts from the newest of all. Without any rule everything is kept.
 */
export function applyRetention(points: readonly DatedPoint[], rules: RetentionRules): RetentionVerdict[] {
	const isRuled = [rules.withinMs, rules.last, ...PERIODS.map(({rule}) => rules[rule])].some(isGiven);
	const ordered = points
		.toSorted((one, other) => other.time.getTime() - one.time.getTime() || comparePointIds(other.id, one.id))
		.map((point): Candidate => {
			if (point.isProtected) return {point, decision: 'keep', why: 'protected'};
			return isRuled ? {point, decision: 'open', why: UNKEPT} : {point, decision: 'keep', why: 'no rule is given'};
		});
	const candidates = ordered.filter(({point}) => !point.isProtected);
	const newest = ordered[0]?.point.time.getTime() ?? 0;
	if (isGiven(rules.withinMs)) keepWithin(candidates, newest, rules.withinMs);
	if (isGiven(rules.last)) keepLast(candidates, rules.last);
	for (const period of PERIODS) {
		const count = rules[period.rule];
		if (isGiven(count)) keepOneOfEach(candidates, period, count);
	}
	return ordered.map(({point, decision, why}) => ({
		id: point.id,
		decision: decision === 'keep' ? 'keep' : 'remove',
		why,
	}));
}

function isGiven(rule: number | undefined): rule is number {
	return rule !== undefined && rule > 0;
}

function keepWithin(candidates: readonly Candidate[], newest: number, withinMs: number): void {
	// Bounded: a date that is out of range would keep nothing.
	const start = new Date(Math.max(0, newest - withinMs));
	for (const candidate of candidates.filter(({point}) => point.time >= start)) {
		candidate.decision = 'keep';
		candidate.why = `--keep-within: since ${dayOf(start)} ${clockOf(start)}`;
	}
}

function keepLast(candidates: readonly Candidate[], count: number): void {
	const open = candidates.filter(({decision}) => decision === 'open');
	for (const [index, candidate] of open.slice(0, count).entries()) {
		candidate.decision = 'keep';
		candidate.why = `--keep-last: ${index + 1} of ${count}`;
	}
}

/**
 * What is left out for a newer point of its period is out for the rules that follow too. That matters where a week
 * belongs to two months or years. What only shares its period with a point of an earlier rule stays open.
 */
function keepOneOfEach(candidates: readonly Candidate[], {rule, unit, nameOf}: Period, count: number): void {
	const kept = candidates.filter(({decision}) => decision === 'keep');
	const covered = new Map(kept.toReversed().map(({point}) => [nameOf(point.time), point.id]));
	const chosen = new Map<string, string>();
	for (const candidate of candidates.filter(({decision}) => decision === 'open')) {
		const {id, time} = candidate.point;
		const name = nameOf(time);
		const standIn = covered.get(name) ?? chosen.get(name);
		if (standIn !== undefined) {
			if (chosen.has(name)) candidate.decision = 'remove';
			// The finest period tells the most.
			if (candidate.why === UNKEPT) candidate.why = `--keep-${rule}: ${unit} ${name} is covered by ${standIn}`;
		} else if (chosen.size < count) {
			chosen.set(name, id);
			candidate.decision = 'keep';
			candidate.why = `--keep-${rule}: ${chosen.size} of ${count}, ${unit} ${name}`;
		} else {
			return;
		}
	}
}

/** Named by the clock on the wall: the hour that the end of summer time repeats is one. */
function hourOf(time: Date): string {
	return `${dayOf(time)} ${twoDigits(time.getHours())}:00`;
}

function dayOf(time: Date): string {
	return `${yearOf(time)}-${twoDigits(time.getMonth() + 1)}-${twoDigits(time.getDate())}`;
}

/** A week is of the year that its Thursday is in. */
function isoWeekOf(time: Date): string {
	const sinceMonday = (time.getDay() + 6) % 7;
	const thursday = new Date(Date.UTC(time.getFullYear(), time.getMonth(), time.getDate() - sinceMonday + 3));
	const year = thursday.getUTCFullYear();
	const daysBefore = (thursday.getTime() - Date.UTC(year, 0, 1)) / 86_400_000;
	return `${year}-W${twoDigits(Math.floor(daysBefore / 7) + 1)}`;
}

function yearOf(time: Date): string {
	return String(time.getFullYear());
}

function clockOf(time: Date): string {
	return [time.getHours(), time.getMinutes(), time.getSeconds()].map(twoDigits).join(':');
}

function twoDigits(number: number): string {
	return String(number).padStart(2, '0');
}
