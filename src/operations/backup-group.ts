import {concat, defer, map, type Observable, of, tap} from 'rxjs';
import type {GroupRecord, PointManifest} from '../repository/manifest.ts';
import {backup} from './backup.ts';
import type {BackupMessage, BackupRequest} from './backup-messages.ts';
import {namedFor, type Of, together} from './together.ts';

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
	return defer(() => {
		const points: {manifest: PointManifest; folder: string}[] = [];
		const works = Array.from(members, ([vm, request]) => ({
			vm,
			run: (member: NonNullable<BackupRequest['member']>, signal: AbortSignal) =>
				backup({...request, member, signal, ...namedFor(vm, request)}),
		}));
		const taken$ = together({name, signal}, works).pipe(
			tap(message => {
				if (message.kind === 'finished') points.push({manifest: message.manifest, folder: message.folder});
			}),
		);
		const finished$ = defer(() => {
			const group = points[0]?.manifest.group;
			return group ? of({kind: 'group-finished' as const, group, points}) : of();
		});
		return concat(taken$.pipe(map((message): GroupBackupMessage => message)), finished$);
	});
}
