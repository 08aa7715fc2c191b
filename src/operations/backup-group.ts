import type {Observable} from 'rxjs';
import type {GroupRecord, PointManifest} from '../repository/manifest.ts';
import {backup} from './backup.ts';
import type {BackupMessage, BackupRequest} from './backup-messages.ts';
import {namedFor, type Of, togetherToTheEnd} from './together.ts';

export interface GroupBackupRequest {
	/** What the points are to call the group. */
	readonly group: string;
	/** By what the operator calls each VM. All of one repository; `signal` is that of the group. */
	readonly members: ReadonlyMap<string, Omit<BackupRequest, 'member' | 'signal'>>;
	readonly signal: AbortSignal;
}

export type GroupBackupMessage =
	| Of<BackupMessage>
	/** The last one. Not of a plan. */
	| {
			readonly kind: 'group-finished';
			readonly group: GroupRecord;
			readonly points: readonly {readonly manifest: PointManifest; readonly folder: string}[];
	  };

/**
 * Takes a point of each of several VMs: all are frozen, then all are cut, then all are thawed. Cold. Where one fails, all
 * are undone, and no point of any of them appears; only if this process ends, or a file system fails, while the
 * finished points are renamed, some can be there and others not.
 */
export function backupGroup({group: name, members, signal}: GroupBackupRequest): Observable<GroupBackupMessage> {
	const works = Array.from(members, ([vm, request]) => ({
		vm,
		run: (member: NonNullable<BackupRequest['member']>, ended: AbortSignal) =>
			backup({...request, member, signal: ended, ...namedFor(vm, request)}),
	}));
	return togetherToTheEnd({name, signal}, works, finished => {
		const group = finished[0]?.manifest.group;
		const points = finished.map(({manifest, folder}) => ({manifest, folder}));
		return group ? {kind: 'group-finished' as const, group, points} : undefined;
	});
}
