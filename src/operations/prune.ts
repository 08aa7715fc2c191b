import {catchError, concat, defer, from, mergeMap, type Observable, of, tap} from 'rxjs';
import {newRunId} from '../block/names.ts';
import {UsageError} from '../errors.ts';
import {LockedError} from '../host/lock.ts';
import {consolidate, type ConsolidationMessage} from '../repository/consolidate.ts';
import {expirePoint, forgetEmptyVm, removeLeftFolders, removePoint} from '../repository/expire-point.ts';
import {listVms, resolvePoint} from '../repository/points.ts';
import {openRepository, type Repository} from '../repository/repository.ts';
import type {RetentionRules, RetentionVerdict} from '../repository/retention.ts';
import {streamTask} from '../rx/task-stream.ts';
import {chooseByName, chooseByRules, type ChosenPoints, requireRule} from './choose-points.ts';
import {withPoints} from './with-points.ts';

export interface PruneOptions {
	readonly repository: string;
	/** All VMs, each by itself, if not given. */
	readonly vm?: string | undefined;
	/** Removes just this one: an id or its unique beginning. Needs `vm`, and takes no rules. */
	readonly point?: string | undefined;
	readonly rules?: RetentionRules | undefined;
	/** Decide and tell only. */
	readonly dryRun?: boolean | undefined;
	/** Aborting fails the stream with the reason. All points that are visible then can be restored; the next prune goes on. */
	readonly signal?: AbortSignal | undefined;
}

export type PruneMessage =
	| {readonly kind: 'warning'; readonly vm: string; readonly text: string}
	/** What was left by a run that died. */
	| {readonly kind: 'recovered'; readonly vm: string; readonly text: string}
	/** Newest first. */
	| {readonly kind: 'decided'; readonly vm: string; readonly points: readonly RetentionVerdict[]}
	| (ConsolidationMessage & {readonly vm: string})
	/** Its points are in use by another run. Not if it is the one that was asked for: then the stream fails. */
	| {readonly kind: 'passed-over'; readonly vm: string; readonly why: string}
	| PruneSummary;

export interface PruneSummary {
	readonly kind: 'finished';
	readonly dryRun: boolean;
	readonly vms: number;
	/** Points. */
	readonly kept: number;
	readonly removed: number;
	/** That are removed, and whose images others need. */
	readonly hidden: number;
	readonly bytesFreed: number;
	readonly passedOver: readonly string[];
	/** Merges that were not done: since an image is damaged, and for other reasons. */
	readonly damaged: number;
	readonly failed: number;
}

/**
 * Removes points by rules, or one by its name, and merges images so that what others lie on can go too. Cold. Ends with
 * `finished`; that a merge was not done does not fail it. Whenever it ends, killed included, each visible point is whole.
 */
export function prune(options: PruneOptions): Observable<PruneMessage> {
	const {signal} = options;
	let summary: PruneSummary = {
		...{kind: 'finished', dryRun: options.dryRun === true, vms: 0, kept: 0, removed: 0, hidden: 0},
		...{bytesFreed: 0, passedOver: [], damaged: 0, failed: 0},
	};
	const each$ = defer(() => open(options)).pipe(
		mergeMap(({repository, vms}) =>
			concat(
				...vms.map(vm =>
					pruneVm(repository, vm, options).pipe(
						catchError((error: unknown) => {
							if (!(error instanceof LockedError) || options.vm !== undefined) throw error;
							signal?.throwIfAborted();
							return of({kind: 'passed-over' as const, vm, why: error.message});
						}),
					),
				),
			),
		),
	);
	return defer(() =>
		concat(
			each$.pipe(
				tap(message => {
					summary = add(summary, message);
				}),
			),
			defer(() => of(summary)),
		),
	);
}

async function open({repository: folder, vm, point, rules = {}}: PruneOptions) {
	if (point === undefined) requireRule(rules);
	else if (vm === undefined || Object.values(rules).some(rule => rule !== undefined)) {
		throw new UsageError('a point that is named is removed whatever the rules say: leave them out');
	}
	const repository = await openRepository(folder);
	const known = await listVms(repository);
	// Says which VMs there are.
	if (vm !== undefined && !known.includes(vm)) await resolvePoint(repository, vm, point);
	return {repository, vms: vm === undefined ? known : [vm]};
}

function pruneVm(repository: Repository, vm: string, options: PruneOptions): Observable<PruneMessage> {
	const {point, rules = {}, dryRun, signal} = options;
	const choose = (): Promise<ChosenPoints> =>
		point === undefined ? chooseByRules(repository, vm, rules) : chooseByName(repository, vm, point);
	if (dryRun === true) return defer(choose).pipe(mergeMap(chosen => from(inWords(vm, chosen))));
	const doing = `prune since ${new Date().toISOString()}`;
	return withPoints(
		repository,
		vm,
		{run: newRunId(), doing},
		// A lock that could not be let go of goes with this process.
		() => undefined,
		() =>
			streamTask<PruneMessage>(signal, async (emit, ended) => {
				for (const name of await removeLeftFolders(repository, vm)) {
					emit({kind: 'recovered', vm, text: `removed what was left in ${name}`});
				}
				const chosen = await choose();
				for (const message of inWords(vm, chosen)) emit(message);
				ended.throwIfAborted();
				await expire(vm, chosen, emit);
				await consolidate(
					repository,
					vm,
					message => {
						emit({...message, vm});
					},
					ended,
				);
				await forgetEmptyVm(repository, vm);
			}),
	);
}

/** All that go are invisible before any image is touched. */
async function expire(vm: string, {removed}: ChosenPoints, emit: (message: PruneMessage) => void): Promise<void> {
	for (const point of removed) {
		if (point.state === 'damaged') {
			emit({kind: 'removed', vm, point: point.id, bytesFreed: await removePoint(point)});
		} else if (!(await expirePoint(point))) {
			emit({kind: 'warning', vm, text: `${vm}@${point.id} has just been protected, and stays`});
		}
	}
}

function inWords(vm: string, {verdicts, warnings}: ChosenPoints): PruneMessage[] {
	return [
		...warnings.map((text): PruneMessage => ({kind: 'warning', vm, text})),
		{kind: 'decided', vm, points: verdicts},
	];
}

function add(summary: PruneSummary, message: PruneMessage): PruneSummary {
	switch (message.kind) {
		case 'decided': {
			const removed = message.points.filter(({decision}) => decision === 'remove').length;
			const kept = message.points.length - removed;
			const {vms} = summary;
			return {...summary, vms: vms + 1, kept: summary.kept + kept, removed: summary.removed + removed};
		}
		case 'removed':
		case 'merged':
			return {...summary, bytesFreed: summary.bytesFreed + message.bytesFreed};
		case 'hidden':
			return {...summary, hidden: summary.hidden + 1};
		case 'passed-over':
			return {...summary, passedOver: [...summary.passedOver, message.vm]};
		case 'not-merged':
			return {...summary, [message.reason]: summary[message.reason] + 1};
		default:
			return summary;
	}
}
