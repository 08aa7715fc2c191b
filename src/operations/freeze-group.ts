import {defer, lastValueFrom, toArray} from 'rxjs';
import type {SocketAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import type {FreezeWindow} from '../guest-agent/freeze-window.ts';
import {
	commandOf,
	type CommandRequest,
	type FreezeRequest,
	freezeUntilThawed,
	freezeWhile,
	type LastingFreeze,
	runCommand,
} from './freeze.ts';
import {namedFor, type Of, together} from './together.ts';
import {thaw} from './thaw.ts';

export interface FrozenGroup<Request extends FreezeRequest> {
	readonly group: string;
	/** The agents, by what the operator calls each VM. */
	readonly agents: ReadonlyMap<string, SocketAddress>;
	/** For each of them; `signal` is that of the group. */
	readonly request: Omit<Request, 'agent' | 'member'>;
}

/**
 * Runs a program once all guests of a group are frozen, and thaws all on every path. Throws if one was not frozen; then
 * the program did not run, and all others are thawed. As `freezeAround`.
 */
export async function freezeGroupAround(
	{group, agents, request}: FrozenGroup<CommandRequest>,
	argv: readonly string[],
): Promise<{readonly exitStatus: number; readonly windows: readonly Of<FreezeWindow>[]}> {
	const command = commandOf(argv);
	let running: Promise<number> | undefined;
	const frozen = await ofEach({group, agents, request}, one =>
		freezeWhile(one, () => (running ??= runCommand({...one, ...request}, command))),
	);
	const exitStatus = (await running) ?? 0;
	return {exitStatus, windows: frozen.map(({of, window}) => ({of, ...window}))};
}

/** Leaves all guests of a group frozen, as `freezeUntilThawed`, or none. */
export async function freezeGroupUntilThawed(group: FrozenGroup<FreezeRequest>): Promise<readonly Of<LastingFreeze>[]> {
	const left = new Map<string, SocketAddress>();
	try {
		return await ofEach(group, async one => {
			const frozen = await freezeUntilThawed(one);
			left.set(one.vm, one.agent);
			return frozen;
		});
	} catch (error) {
		// The others' guards keep them frozen by then.
		const thawed = await Promise.allSettled([...left.values()].map(agent => thaw(agent, {signal: neverAborted()})));
		const failures = thawed.flatMap(result => (result.status === 'rejected' ? [asError(result.reason)] : []));
		throw failures.length === 0
			? error
			: new AggregateError([error, ...failures], 'not all are thawed', {cause: error});
	}
}

function ofEach<Request extends FreezeRequest, Value extends object>(
	{group, agents, request}: FrozenGroup<Request>,
	freeze: (request: FreezeRequest & {readonly vm: string}) => Promise<Value>,
): Promise<readonly Of<Value>[]> {
	const works = Array.from(agents, ([vm, agent]) => ({
		vm,
		run: (member: NonNullable<FreezeRequest['member']>, signal: AbortSignal) =>
			defer(() => freeze({...request, ...namedFor(vm, request), vm, agent, member, signal})),
	}));
	return lastValueFrom(together({name: group, signal: request.signal}, works).pipe(toArray()), {defaultValue: []});
}

/** What is to be undone is undone also after a cancellation. */
function neverAborted(): AbortSignal {
	return new AbortController().signal;
}
