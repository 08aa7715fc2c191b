import type {Observable} from 'rxjs';
import {type HostLock, type LockHolder, takeLock} from '../host/lock.ts';
import type {Repository} from '../repository/repository.ts';
import {scoped} from '../rx/scoped.ts';

/**
 * Cold: holds the lock on a VM's points, which belongs to whoever adds some or takes some away: a point that another one is
 * being based on must not go. For one host: two that share a repository do not see each other's.
 */
export function withPoints<Message>(
	repository: Repository,
	vm: string,
	{run, doing}: Omit<LockHolder, 'pid'>,
	onLostError: (error: unknown) => void,
	use: () => Observable<Message>,
): Observable<Message> {
	return scoped({
		acquire: () => lockPoints(repository, vm, {run, doing}),
		release: lock => lock.release(),
		onLostError,
		use,
	});
}

/** The lock itself. Throws {@link LockedError}. */
export function lockPoints(
	repository: Repository,
	vm: string,
	{run, doing}: Omit<LockHolder, 'pid'>,
): Promise<HostLock> {
	const what = `the points of ${vm} in ${repository.path}`;
	return takeLock(`points ${repository.id} ${vm}`, what, {pid: process.pid, run, doing});
}
