import {concat, concatMap, defer, EMPTY, filter, map, type Observable, of} from 'rxjs';
import {QuiesceError, UsageError} from '../errors.ts';
import {isThere} from '../repository/durable-files.ts';
import {beginDeletion, finishDeletion, readDeletion} from '../snapshots/deletion.ts';
import type {MergedImages} from '../snapshots/retell.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';
import {qemuOf} from './capture-machine.ts';
import type {ChainPace} from './chain-work.ts';
import {mergeIn, type MergeMessage, type MovedDisk} from './commit.ts';
import {deleteInternal, holdersOf} from './internal-snapshots.ts';
import {imagesOf} from './merge-plan.ts';
import {planDeletion} from './plan-snapshot-deletion.ts';
import {snapshotFolders, snapshotsIn} from './snapshot-folders.ts';
import type {Session} from './vm-session.ts';
import {type AnyVmRequest, lookAt, withAnyVm} from './with-vm.ts';

export interface DeleteSnapshotRequest extends AnyVmRequest, ChainPace {
	readonly snapshot: string;
	/** Where snapshots are told of, besides the folders of the images. */
	readonly folder?: string | undefined;
	readonly dryRun?: boolean | undefined;
}

export type DeleteSnapshotMessage =
	| Exclude<MergeMessage, {kind: 'finished'}>
	/** An internal one, in these disks. */
	| {readonly kind: 'held'; readonly vm: string; readonly disks: readonly string[]}
	| {readonly kind: 'deleted'; readonly snapshot: string; readonly moved: readonly MovedDisk[]};

/**
 * Deletes a snapshot of a VM, which goes on if it runs; what its disks hold stays as it is. An external one by merging each
 * overlay with its base; failed or aborted before `settling` the snapshot is still there. Cold.
 */
export function deleteSnapshot(request: DeleteSnapshotRequest): Observable<DeleteSnapshotMessage> {
	return defer(() => lookAt(request, 'snapshot delete', vm => findIn(vm, request))).pipe(
		concatMap(({snapshot, others}) =>
			snapshot?.manifest.kind === 'external'
				? deleteExternal(request, snapshot, others)
				: deleteInside(request, snapshot),
		),
	);
}

interface Found {
	readonly snapshot: Snapshot | undefined;
	readonly others: readonly Snapshot[];
}

async function findIn(vm: Session, {snapshot: name, folder}: DeleteSnapshotRequest): Promise<Found> {
	const graph = await vm.readGraph();
	const known = await snapshotsIn(snapshotFolders(vm.name, graph, (await qemuOf(vm))?.cwd, folder));
	const [found, ...more] = known.filter(one => one.name === name);
	if (more.length > 0)
		throw new QuiesceError(
			'REFUSED',
			`there are two snapshots called ${name}: in ${found?.folder ?? ''} and ${more[0]?.folder ?? ''}`,
		);
	if (found?.state === 'damaged') throw new QuiesceError('DAMAGED', found.reason);
	if (!found && holdersOf(graph, name).length === 0) {
		throw new UsageError(`this VM has no snapshot '${name}'`, {
			hint: '`quiesce snapshot list` shows those that it has.',
		});
	}
	return {snapshot: found, others: known.flatMap(one => (one.state === 'readable' ? [one] : []))};
}

function deleteExternal(
	request: DeleteSnapshotRequest,
	snapshot: Snapshot,
	others: readonly Snapshot[],
): Observable<DeleteSnapshotMessage> {
	let merged: readonly MergedImages[] = [];
	let moved: readonly MovedDisk[] = [];
	const merging$ = mergeIn(
		request,
		'snapshot delete',
		async vm => {
			// A deletion that was killed has been finished by now, if nothing was left to merge.
			if (!(await isThere(snapshot.folder))) return [];
			const plans = await planDeletion(vm, snapshot);
			// What a deletion that was killed has merged is still to be told; not what it has not come to.
			const before = ((await readDeletion(snapshot)) ?? []).filter(
				one => !plans.some(({disk}) => disk.name === one.disk),
			);
			merged = [...before, ...plans.flatMap(plan => imagesOf(plan, true) ?? [])];
			if (request.dryRun !== true) await beginDeletion(snapshot, merged);
			return plans;
		},
		'remove',
	).pipe(
		map(message => {
			if (message.kind === 'finished') ({moved} = message);
			return message;
		}),
		filter(message => message.kind !== 'finished'),
	);
	if (request.dryRun === true) return merging$;
	const {snapshot: name} = request;
	return concat(
		merging$,
		defer(() => finishDeletion(snapshot, others, merged)).pipe(concatMap(() => EMPTY)),
		defer(() => of({kind: 'deleted' as const, snapshot: name, moved})),
	);
}

function deleteInside(
	request: DeleteSnapshotRequest,
	snapshot: Snapshot | undefined,
): Observable<DeleteSnapshotMessage> {
	const {snapshot: name} = request;
	return withAnyVm(request, `snapshot delete since ${new Date().toISOString()}`, vm =>
		defer(async () => {
			const holders = holdersOf(await vm.readGraph(), name);
			const held: DeleteSnapshotMessage = {kind: 'held', vm: vm.name, disks: holders.map(({disk}) => disk)};
			if (request.dryRun === true) return [held];
			request.signal.throwIfAborted();
			await deleteInternal(vm.qmp, holders, name);
			if (snapshot) await finishDeletion(snapshot, [], []);
			return [held, {kind: 'deleted' as const, snapshot: name, moved: []}];
		}).pipe(concatMap(messages => messages)),
	);
}
