import {concat, defer, from, map, mergeMap, type Observable, of, catchError} from 'rxjs';
import {asError} from '../errors.ts';
import {LockedError} from '../host/lock.ts';
import {discover, type DiscoveredVm} from './discover.ts';
import {removeRunFolders} from './leftovers.ts';
import {recover, type Recovered, type RecoverRequest} from './recover.ts';

/** `vm` is undefined for what is left on this host and belongs to no VM that runs. */
export type RecoveredOf = Recovered & {readonly vm: string | undefined};

/**
 * As `recover`, for every running VM of this host, and then for the host itself. A VM that cannot be looked into, and one
 * in which a run is at work, is told of and passed over.
 */
export function recoverAll(request: Omit<RecoverRequest, 'sockets'>): Observable<RecoveredOf> {
	const vms$ = defer(() => discover()).pipe(
		mergeMap(vms => concat(...vms.filter(vm => vm.state === 'running').map(vm => recoverOne(request, vm)))),
	);
	const host$ = defer(() => removeRunFolders()).pipe(
		mergeMap(texts => from(texts)),
		map(text => ({kind: 'recovered' as const, text, vm: undefined})),
	);
	return concat(vms$, host$);
}

function recoverOne(request: Omit<RecoverRequest, 'sockets'>, vm: DiscoveredVm): Observable<RecoveredOf> {
	const {name, agent, monitors} = vm;
	const [qmp] = monitors;
	const called = name ?? vm.uuid ?? `process ${vm.pid ?? '?'}`;
	if (!qmp) {
		request.tell(`${called}: not looked into: it has no QMP monitor for us`);
		return of();
	}
	return recover({...request, sockets: {qmp, agent, name: called}}).pipe(
		map(message => ({...message, vm: called})),
		catchError((error: unknown) => {
			request.signal.throwIfAborted();
			const why = error instanceof LockedError ? 'a run is at work' : 'not looked into';
			request.tell(`${called}: ${why}: ${asError(error).message}`);
			return of();
		}),
	);
}
