import {catchError, defer, EMPTY, filter, map, merge, type Observable, of, repeat, throwError, timer} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {QmpOutcomeUnknownError, UnreachableError} from '../qmp/errors.ts';
import {openFree} from '../qmp/open-free.ts';
import type {QmpEvent} from '../qmp/schema.ts';
import type {Transcript} from '../qmp/transcript.ts';
import {aborted} from '../rx/aborted.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {scoped} from '../rx/scoped.ts';

const RETRY_MS = 1_000;

/** A VM, by what the operator calls it, and the monitors of which one has to be free. */
export interface WatchedVm {
	readonly name: string;
	readonly monitors: readonly [SocketAddress, ...SocketAddress[]];
}

export interface WatchEventsRequest {
	readonly vms: readonly WatchedVm[];
	/** Names of events, where `*` stands for anything; all if there are none. */
	readonly only?: readonly string[] | undefined;
	/** Whether to connect again to a monitor that was lost, for ever, or to be done with that VM. */
	readonly whenLost: 'retry' | 'end';
	readonly signal: AbortSignal;
	readonly transcript?: Transcript | undefined;
	readonly tell: (what: string) => void;
}

/** Times are UTC, as in ISO 8601; that of an event is QEMU's own. */
export type EventMessage = {readonly vm: string} & (
	| {readonly kind: 'connected'; readonly at: string}
	| {readonly kind: 'event'; readonly event: string; readonly data: object; readonly at: string}
	/** Nothing is heard of the VM from here on; or it was not reached to begin with. */
	| {readonly kind: 'lost'; readonly at: string; readonly why: string}
	/** It is heard again. What was in between nobody knows. */
	| {readonly kind: 'gap'; readonly from: string; readonly to: string}
);

/**
 * The events of many VMs in one stream, those of each in its order. Cold: each subscription has connections of its own, and takes
 * a monitor of each VM for itself. Completes when all VMs are lost, with `whenLost: 'end'`; fails with the signal's reason, or, with
 * `end`, if a VM is not reached at all.
 */
export function watchEvents(request: WatchEventsRequest): Observable<EventMessage> {
	return merge(...request.vms.map(vm => follow(vm, request)));
}

function follow({name: vm, monitors}: WatchedVm, request: WatchEventsRequest): Observable<EventMessage> {
	const {signal, transcript, whenLost} = request;
	const isWanted = matcher(request.only ?? []);
	let state: {readonly kind: 'new' | 'connected'} | {readonly kind: 'lost'; readonly at: string} = {kind: 'new'};

	const connected = (): EventMessage => {
		const at = new Date().toISOString();
		const message: EventMessage =
			state.kind === 'lost' ? {kind: 'gap', vm, from: state.at, to: at} : {kind: 'connected', vm, at};
		state = {kind: 'connected'};
		return message;
	};
	const session$ = scoped({
		acquire: async () => (await openFree(monitors, {signal, record: transcript?.of(`qmp ${vm}`)})).qmp,
		release: qmp => qmp.close(),
		onLostError: error => {
			request.tell(asError(error).message);
		},
		use: qmp =>
			merge(
				defer(() => of(connected())),
				qmp.events$.pipe(
					filter(({event}) => isWanted(event)),
					map(event => messageOf(vm, event)),
				),
			).pipe(guardedBy(aborted(signal))),
	});
	const untilLost$ = session$.pipe(
		catchError((error: unknown): Observable<EventMessage> => {
			const isLost = error instanceof QmpOutcomeUnknownError || error instanceof UnreachableError;
			if (!isLost || (whenLost === 'end' && state.kind === 'new')) return throwError(() => error);
			// Said once, however often it is tried again.
			if (state.kind === 'lost') return EMPTY;
			const at = new Date().toISOString();
			state = {kind: 'lost', at};
			return of({kind: 'lost', vm, at, why: error.message});
		}),
	);
	if (whenLost === 'end') return untilLost$;
	return untilLost$.pipe(repeat({delay: () => timer(RETRY_MS).pipe(guardedBy(aborted(signal)))}));
}

function messageOf(vm: string, {event, data, timestamp: {seconds, microseconds}}: QmpEvent): EventMessage {
	const at = new Date(seconds * 1000 + microseconds / 1000);
	return {kind: 'event', vm, event, data, at: Number.isNaN(at.getTime()) ? '' : at.toISOString()};
}

function matcher(patterns: readonly string[]): (name: string) => boolean {
	if (patterns.length === 0) return () => true;
	const expressions = patterns.map(pattern => {
		const parts = pattern.split('*').map(part => part.replaceAll(/[\\^$.|?+()[\]{}]/g, '\\$&'));
		return new RegExp(`^${parts.join('.*')}$`);
	});
	return name => expressions.some(expression => expression.test(name));
}
