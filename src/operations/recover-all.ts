import {catchError, concat, defer, EMPTY, map, mergeMap, type Observable} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {LockedError} from '../host/lock.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {listVms} from '../repository/points.ts';
import {openRepository} from '../repository/repository.ts';
import {removeDeadPartials} from './dead-partials.ts';
import {discover, type DiscoveredVm} from './discover.ts';
import {removeRunFolders, removeScratchFiles} from './leftovers.ts';
import {inWords, recover, type Recovered, type RecoverRequest} from './recover.ts';

/** `vm` is undefined for what is left on this host and belongs to no VM that runs. */
export type RecoveredOf = Recovered & {readonly vm: string | undefined};

/**
 * As `recover`, for every running VM of this host, and then for the host itself and all of the repository, also where the
 * VM does not run. A VM that cannot be looked into, and one in which a run is at work, is told of and passed over. `find` says which VMs
 * there are.
 */
export function recoverAll(
	request: Omit<RecoverRequest, 'sockets'>,
	find: () => Promise<readonly DiscoveredVm[]> = discover,
): Observable<RecoveredOf> {
	const {repository, scratch} = request;
	let passedOver = 0;
	const ofVms$ = defer(() => find()).pipe(
		mergeMap(vms =>
			concat(
				...vms
					.filter(({state}) => state === 'running')
					.map(vm =>
						recoverOne(request, vm, why => {
							passedOver++;
							request.tell(why);
						}),
					),
			),
		),
	);
	const ofHost$ = inWords(async () => [
		...(scratch === undefined ? [] : await removeScratchFiles(scratch)),
		// Where all VMs were looked into, none of them waits to be resumed.
		...(await removeRunFolders(new Set(), {pausing: passedOver === 0 ? 'remove' : 'keep'})),
	]).pipe(map(message => ({...message, vm: undefined})));
	const ofRepository$ = repository === undefined ? EMPTY : ofPartials(repository);
	return concat(ofVms$, ofHost$, ofRepository$);
}

function ofPartials(folder: string): Observable<RecoveredOf> {
	return defer(() => openRepository(folder)).pipe(
		mergeMap(repository =>
			defer(() => listVms(repository)).pipe(
				mergeMap(vms =>
					concat(
						...vms.map(vm =>
							inWords(() => removeDeadPartials(repository, vm)).pipe(map(message => ({...message, vm}))),
						),
					),
				),
			),
		),
	);
}

function recoverOne(
	request: Omit<RecoverRequest, 'sockets'>,
	vm: DiscoveredVm,
	passOver: (why: string) => void,
): Observable<RecoveredOf> {
	const {agent, monitors} = vm;
	const name = vm.name ?? vm.uuid ?? `process ${vm.pid ?? '?'}`;
	const by = ([qmp, ...others]: readonly SocketAddress[]): Observable<RecoveredOf> => {
		if (!qmp) {
			passOver(`${name}: not looked into: it has no QMP monitor for us`);
			return EMPTY;
		}
		return recover({...request, repository: undefined, sockets: {qmp, agent, name}}).pipe(
			map(message => ({...message, vm: name})),
			catchError((error: unknown) => {
				request.signal.throwIfAborted();
				if (error instanceof UnreachableError && others.length > 0) return by(others);
				const why = error instanceof LockedError ? 'a run is at work' : 'not looked into';
				passOver(`${name}: ${why}: ${asError(error).message}`);
				return EMPTY;
			}),
		);
	};
	return defer(() => by(monitors));
}
