import {concat, concatMap, defer, EMPTY, type Observable, of} from 'rxjs';
import type {Snapshot} from '../snapshots/snapshots.ts';
import type {ChainPace} from './chain-work.ts';
import {readChains, type VmChains} from './disk-chains.ts';
import {mergeChains, type MergeChainsMessage} from './merge-chains.ts';
import {type MergePlan, requireNothingInside} from './merge-plan.ts';
import {type CommitWish, planCommits} from './plan-commit.ts';
import {recoverVm} from './recover.ts';
import {readableSnapshots} from './snapshot-folders.ts';
import {withGuard} from './with-guard.ts';
import {type AnyVmRequest, withAnyVm} from './with-vm.ts';

export interface CommitRequest extends AnyVmRequest, CommitWish, ChainPace {
	/** Leaves the files of the layers where they are. */
	readonly keep?: boolean | undefined;
	readonly dryRun?: boolean | undefined;
}

/** What is to be done to a disk's chain, in the names of files. */
export interface PlannedMerge {
	readonly disk: string;
	readonly kind: MergePlan['kind'];
	readonly into: string;
	/** The top first. */
	readonly going: readonly string[];
	/** At the most; null where the storage cannot tell. */
	readonly bytes: number | null;
}

/** A disk whose top is another image than before, though QEMU's command line does not name that. */
export interface MovedDisk {
	readonly disk: string;
	readonly file: string;
}

export type MergeMessage =
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'planned'; readonly vm: string; readonly disks: readonly PlannedMerge[]}
	| MergeChainsMessage
	| {
			readonly kind: 'finished';
			/** Nothing was changed. */
			readonly dryRun: boolean;
			readonly disks: readonly string[];
			readonly moved: readonly MovedDisk[];
	  };

/**
 * Merges layers of a VM's disks into what lies beneath them. Cold. Ends with `finished`; failed or aborted before
 * `settling`, each disk lies on what it lay on.
 */
export function commit(request: CommitRequest): Observable<MergeMessage> {
	return mergeIn(request, 'commit', vm => planCommits(vm, request), request.keep === true ? 'keep' : 'remove');
}

/** The part that all merges have in common. */
export function mergeIn(
	request: AnyVmRequest & ChainPace & {readonly dryRun?: boolean | undefined; readonly folder?: string | undefined},
	doing: string,
	plan: (vm: VmChains) => Promise<readonly MergePlan[]>,
	files: 'keep' | 'remove',
): Observable<MergeMessage> {
	return withAnyVm(request, `${doing} since ${new Date().toISOString()}`, (vm, run) => {
		const planned$ = (
			use: (chains: VmChains, plans: readonly MergePlan[], snapshots: readonly Snapshot[]) => Observable<MergeMessage>,
		) =>
			defer(async () => {
				request.signal.throwIfAborted();
				const chains = await readChains(vm);
				const plans = await plan(chains);
				if (files === 'remove') plans.forEach(requireNothingInside);
				return [chains, plans, await readableSnapshots(vm, request.folder)] as const;
			}).pipe(
				concatMap(([chains, plans, snapshots]) =>
					concat(
						of({kind: 'planned' as const, vm: vm.name, disks: plans.map(plannedOf)}),
						plans.flatMap(({warnings}) => warnings.map(text => ({kind: 'warning' as const, text}))),
						use(chains, plans, snapshots),
					),
				),
			);
		if (request.dryRun === true) return planned$((_, plans) => of(finishedOf(plans, [], true)));
		const guarded = {vm: {qmp: vm.power === 'on' ? vm.sockets.qmp : undefined, name: vm.name}};
		return withGuard(request, run, guarded, ({guard}) =>
			concat(
				recoverVm(vm, {}, undefined),
				// Before it is at work nothing may be begun.
				defer(() => guard.ready()).pipe(concatMap(() => EMPTY)),
				planned$((chains, plans, snapshots) => {
					const options = {files, snapshots, speed: request.speed, deadlineMs: request.deadlineMs};
					return concat(
						mergeChains({request, vm, run}, chains, plans, options),
						of(
							finishedOf(
								plans,
								plans.flatMap(merge => movedBy(merge, chains)),
								false,
							),
						),
					);
				}),
			),
		);
	});
}

function plannedOf({disk, kind, into, going, bytes}: MergePlan): PlannedMerge {
	return {disk: disk.name, kind, into: into.name, going: going.map(({name}) => name), bytes: bytes ?? null};
}

function finishedOf(plans: readonly MergePlan[], moved: readonly MovedDisk[], dryRun: boolean): MergeMessage {
	return {kind: 'finished', dryRun, disks: plans.map(({disk}) => disk.name), moved};
}

/** QEMU's command line says what it would be started with again, where it is visible. */
function movedBy({disk, kind, into}: MergePlan, {qemu}: VmChains): MovedDisk[] {
	const file = into.file ?? into.name;
	const names = qemu?.argv.some(argument => argument.includes(file) || argument.includes(into.name)) === true;
	if (kind !== 'active' || names) return [];
	return [{disk: disk.name, file}];
}
