import {defer, from, mergeMap, type Observable} from 'rxjs';
import {missingOfGroup} from '../repository/group.ts';
import type {GroupedPoint} from '../repository/manifest.ts';
import {stateOf} from '../repository/owner.ts';
import {listPartials, type ListedPartial} from '../repository/partial-point.ts';
import {listPoints, listVms, type ListedPoint, resolvePoint} from '../repository/points.ts';
import {openRepository, type Repository} from '../repository/repository.ts';

export interface ListOptions {
	readonly repository: string;
	/** All VMs if not given. */
	readonly vm?: string | undefined;
}

export type ListMessage =
	| {
			readonly kind: 'point';
			readonly vm: string;
			readonly point: ListedPoint;
			/** Of the point's group. */
			readonly missing: readonly GroupedPoint[];
	  }
	| {
			/** What a run that goes on, or that died, has written so far. */
			readonly kind: 'partial';
			readonly vm: string;
			readonly partial: ListedPartial;
			readonly owner: 'alive' | 'dead' | 'unknown';
	  };

/** What a repository holds, VM by VM, oldest first. Cold. Fails if a VM is named of which there is nothing. */
export function list(options: ListOptions): Observable<ListMessage> {
	return defer(() => from(read(options))).pipe(mergeMap(messages => messages));
}

async function read({repository: folder, vm}: ListOptions): Promise<readonly ListMessage[]> {
	const repository = await openRepository(folder);
	const messages: ListMessage[] = [];
	for (const name of vm === undefined ? await listVms(repository) : [vm]) {
		messages.push(...(await readVm(repository, name)));
	}
	// Says which VMs there are.
	if (vm !== undefined && messages.length === 0) await resolvePoint(repository, vm);
	return messages;
}

async function readVm(repository: Repository, vm: string): Promise<readonly ListMessage[]> {
	const points = await listPoints(repository, vm);
	const partials = await listPartials(repository, vm);
	return [
		...(await Promise.all(
			points.map(async (point): Promise<ListMessage> => ({
				kind: 'point',
				vm,
				point,
				missing: point.state === 'readable' ? await missingOfGroup(repository, point.manifest) : [],
			})),
		)),
		...(await Promise.all(
			partials.map(async (partial): Promise<ListMessage> => ({
				kind: 'partial',
				vm,
				partial,
				owner: partial.owner ? await stateOf(partial.owner) : 'unknown',
			})),
		)),
	];
}
