import type {Observable} from 'rxjs';
import {pointId} from '../repository/point-id.ts';
import type {SnapshotGroup, SnapshotManifest} from '../snapshots/manifest.ts';
import {createSnapshot} from './snapshot-create.ts';
import type {SnapshotMessage, SnapshotRequest} from './snapshot-messages.ts';
import {namedFor, type Of, togetherToTheEnd} from './together.ts';

export interface GroupSnapshotRequest {
	/** What the snapshots are to call the group. */
	readonly group: string;
	/** Of each VM; undefined for the time. */
	readonly snapshot?: string | undefined;
	/** By what the operator calls each VM. `signal` is that of the group. */
	readonly members: ReadonlyMap<string, Omit<SnapshotRequest, 'member' | 'signal' | 'snapshot'>>;
	readonly signal: AbortSignal;
}

export type GroupSnapshotMessage =
	| Of<SnapshotMessage>
	/** The last one. Not of a plan. */
	| {
			readonly kind: 'group-finished';
			readonly group: SnapshotGroup;
			readonly snapshots: readonly {readonly manifest: SnapshotManifest; readonly folder: string}[];
	  };

/**
 * Takes a snapshot of each of several VMs, all of one name: all are frozen, then all are cut, then all are thawed. Cold. Where one
 * fails, all are undone: a VM that has been cut by then gets what its guest wrote since written down into its images, and
 * lies on these again. Only if this process ends, or a file system fails, some snapshots can be there and others not.
 */
export function createSnapshotGroup(
	{group: name, snapshot, members, signal}: GroupSnapshotRequest,
	now = new Date(),
): Observable<GroupSnapshotMessage> {
	const called = snapshot ?? pointId(now, 1);
	const works = Array.from(members, ([vm, request]) => ({
		vm,
		run: (member: NonNullable<SnapshotRequest['member']>, ended: AbortSignal) =>
			createSnapshot({...request, snapshot: called, member, signal: ended, ...namedFor(vm, request)}),
	}));
	return togetherToTheEnd({name, signal}, works, finished => {
		const group = finished[0]?.manifest.group;
		const snapshots = finished.map(({manifest, folder}) => ({manifest, folder}));
		return group ? {kind: 'group-finished' as const, group, snapshots} : undefined;
	});
}
