import {catchError, concat, concatMap, defer, EMPTY, map, merge, type Observable, of, tap} from 'rxjs';
import {failuresIn, QuiesceError} from '../errors.ts';
import {Group, type GroupMember, UndoneError} from './group.ts';
import type {VmRequest} from './with-vm.ts';

/** What is done with one VM of a group. */
export interface MemberWork<Message> {
	/** What the operator calls the VM. */
	readonly vm: string;
	/** Cold. To be ended by `signal`, after which it has undone all. */
	readonly run: (member: GroupMember, signal: AbortSignal) => Observable<Message>;
}

/** A message, and the VM that it is about. */
export type Of<Message> = Message & {readonly of: string};

/**
 * Runs all side by side, as one group. Cold. Ends when all have ended; where one has failed all the others are ended, have undone
 * what they had begun, and the stream fails with the first failure.
 */
export function together<Message extends object>(
	{name, signal}: {readonly name: string; readonly signal: AbortSignal},
	works: readonly MemberWork<Message>[],
): Observable<Of<Message>> {
	return defer(() => {
		const group = new Group(
			name,
			works.map(({vm}) => vm),
			signal,
		);
		const failures: unknown[] = [];
		const all = works.map(({vm, run}) =>
			defer(() => group.turnOf(vm)).pipe(
				concatMap(() => run(group.member(vm), group.signal)),
				map(message => ({...message, of: vm})),
				// To let it through would drop the others, who would not be waited for.
				catchError((error: unknown) => {
					group.fail(vm, error);
					failures.push(...ownFailures(vm, error, group));
					return EMPTY;
				}),
			),
		);
		const ended$ = defer(() => {
			group.end();
			const reasons = [...commonReason(group), ...failures];
			if (reasons.length > 1) throw new AggregateError(reasons, 'the group failed');
			if (reasons.length === 1) throw reasons[0];
			return EMPTY;
		});
		return concat(merge(...all), ended$);
	});
}

/** The same; and at the end what `lastOf` makes of all that they finished with, unless that is nothing. */
export function togetherToTheEnd<Message extends {readonly kind: string}, Last>(
	group: {readonly name: string; readonly signal: AbortSignal},
	works: readonly MemberWork<Message>[],
	lastOf: (finished: readonly Extract<Message, {readonly kind: 'finished'}>[]) => Last | undefined,
): Observable<Of<Message> | Last> {
	return defer(() => {
		const finished: Extract<Message, {readonly kind: 'finished'}>[] = [];
		const isFinished = (message: Message): message is Extract<Message, {readonly kind: 'finished'}> =>
			message.kind === 'finished';
		const noted$ = together(group, works).pipe(
			tap(message => {
				if (isFinished(message)) finished.push(message);
			}),
		);
		const last$ = defer(() => {
			const last = lastOf(finished);
			return last === undefined ? EMPTY : of(last);
		});
		return concat(noted$, last$);
	});
}

/** What is not the consequence of another's failure, with the VM's name before it. */
function ownFailures(vm: string, error: unknown, {signal}: Group): unknown[] {
	return failuresIn(error)
		.filter(one => one !== signal.reason)
		.map(one => {
			if (!(one instanceof QuiesceError)) return one;
			return new QuiesceError(one.code, `${vm}: ${one.message}`, {cause: one, hint: one.hint});
		});
}

/** What ended the group and was no member's own: it was cancelled, or one was late. */
function commonReason({signal}: Group): unknown[] {
	return signal.aborted && !(signal.reason instanceof UndoneError) ? [signal.reason] : [];
}

/** What is told of one of several, in words or in the transcript, says of which. */
export function namedFor<Request extends Pick<VmRequest, 'tell' | 'transcript'>>(
	vm: string,
	{tell, transcript}: Request,
): Pick<Request, 'tell' | 'transcript'> {
	return {
		tell: what => {
			tell(`${vm}: ${what}`);
		},
		transcript: transcript && {of: peer => transcript.of(`${peer}@${vm}`)},
	};
}
