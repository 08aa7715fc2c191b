import {QuiesceError, UsageError} from '../errors.ts';
import {dependentsOf} from '../repository/consolidate.ts';
import {problemOf, readDiskChain} from '../repository/disk-chain.ts';
import {type ListedPoint, listPoints, type Point, resolvePoint} from '../repository/points.ts';
import type {Repository} from '../repository/repository.ts';
import {applyRetention, type RetentionRules, type RetentionVerdict} from '../repository/retention.ts';

/** What is to become of a VM's points. */
export interface ChosenPoints {
	/** Newest first; without those that cannot be judged. */
	readonly verdicts: readonly RetentionVerdict[];
	readonly removed: readonly ListedPoint[];
	readonly warnings: readonly string[];
}

/**
 * Applies rules. What cannot be read is neither removed nor counted, and the newest point that can be restored, as far
 * as can be told without reading it all, is kept whatever the rules say.
 */
export async function chooseByRules(repository: Repository, vm: string, rules: RetentionRules): Promise<ChosenPoints> {
	const points = await listPoints(repository, vm);
	const warnings: string[] = [];
	const dated = points.flatMap(point => {
		const time = point.state === 'readable' ? new Date(point.manifest.cutAt) : undefined;
		if (point.state === 'readable' && time && !Number.isNaN(time.getTime())) return [{...point, time}];
		const why = point.state === 'readable' ? `its time ${point.manifest.cutAt} is none` : point.reason;
		warnings.push(`${vm}@${point.id} is damaged, and no rule applies to it: ${why}`);
		return [];
	});
	const decided = applyRetention(dated, rules);
	const lastGood = await newestWhole(
		repository,
		decided.flatMap(({id}) => dated.find(point => point.id === id) ?? []),
	);
	if (lastGood === undefined && decided.some(({decision}) => decision === 'remove')) {
		warnings.push(`no point of ${vm} is whole: none is removed`);
	}
	const verdicts = decided.map((verdict): RetentionVerdict => {
		if (verdict.decision === 'keep') return verdict;
		if (lastGood === undefined) return {...verdict, decision: 'keep', why: 'no point is whole'};
		return verdict.id === lastGood ? {...verdict, decision: 'keep', why: 'it is the last good point'} : verdict;
	});
	const removed = points.filter(({id}) => verdicts.some(one => one.id === id && one.decision === 'remove'));
	return {verdicts, removed, warnings};
}

/** The one point that was named by an id or its unique beginning, damaged or not. Throws `REFUSED` for a protected one. */
export async function chooseByName(repository: Repository, vm: string, named: string): Promise<ChosenPoints> {
	const exact = (await listPoints(repository, vm)).find(({id}) => id === named);
	const point: ListedPoint = exact ?? {state: 'readable', ...(await resolvePoint(repository, vm, named))};
	if (point.isProtected) {
		throw new QuiesceError('REFUSED', `${vm}@${point.id} is protected`, {
			hint: `quiesce unprotect ${vm}@${point.id}`,
		});
	}
	const dependents = point.state === 'damaged' ? await dependentsOf(repository, vm, point.id) : [];
	if (dependents.length > 0) {
		throw new QuiesceError('REFUSED', `${vm}@${point.id} is damaged, and others need it: ${dependents.join(', ')}`);
	}
	return {verdicts: [{id: point.id, decision: 'remove', why: 'it was named'}], removed: [point], warnings: []};
}

/** Throws if no rule says what to keep: then nothing would be kept. */
export function requireRule(rules: RetentionRules): void {
	if (Object.values(rules).some(rule => rule !== undefined && rule > 0)) return;
	throw new UsageError('no rule says which points to keep', {
		hint: 'Such as --keep-daily 7 --keep-weekly 4. To remove one point, name it: VM@POINT.',
	});
}

async function newestWhole(repository: Repository, newestFirst: readonly Point[]): Promise<string | undefined> {
	for (const point of newestFirst) if (await isWhole(repository, point)) return point.id;
	return undefined;
}

async function isWhole(repository: Repository, point: Point): Promise<boolean> {
	try {
		for (const disk of point.manifest.disks) {
			if ((await problemOf(await readDiskChain(repository, point, disk))) !== undefined) return false;
		}
		return true;
	} catch (error) {
		if (error instanceof QuiesceError && error.code === 'DAMAGED') return false;
		throw error;
	}
}
