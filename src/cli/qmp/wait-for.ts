import {filter, firstValueFrom, merge, type Observable, timer} from 'rxjs';
import {QuiesceError, UsageError} from '../../errors.ts';
import type {QmpSchema} from '../../qmp/introspection.ts';
import type {QmpEvent} from '../../qmp/schema.ts';
import {aborted} from '../../rx/aborted.ts';

/** An event, by its name and by some of its data. */
export interface EventPattern {
	readonly event: string;
	readonly data: readonly (readonly [key: string, value: string])[];
}

/** Reads `EVENT` or `EVENT,key=value…`. */
export function parseEventPattern(text: string, schema: QmpSchema): EventPattern {
	const [event = '', ...rest] = text.split(',');
	if (!schema.hasEvent(event)) {
		throw new UsageError(`--wait: this QEMU has no event '${event}'`, {
			hint: `It has ${schema.events.map(({name}) => name).join(', ')}.`,
		});
	}
	const data = rest.map(word => {
		const [, key, value] = /^([^=]+)=(.*)$/s.exec(word) ?? [];
		if (key === undefined || value === undefined) throw new UsageError(`--wait: '${word}' is not key=value`);
		return [key, value] as const;
	});
	return {event, data};
}

/** Whether an event is one of these. */
function isOneOf(patterns: readonly EventPattern[], {event, data}: QmpEvent): boolean {
	const there = data as Readonly<Record<string, unknown>>;
	return patterns.some(
		pattern => pattern.event === event && pattern.data.every(([key, value]) => String(there[key]) === value),
	);
}

/**
 * The first of the events that is one of these. Listens from now on. Rejects if the monitor goes, the signal comes, or nothing
 * comes in so long.
 */
export async function waitFor(
	events$: Observable<QmpEvent>,
	patterns: readonly EventPattern[],
	{signal, timeoutMs}: {readonly signal: AbortSignal; readonly timeoutMs: number | undefined},
): Promise<QmpEvent> {
	const found$ = events$.pipe(filter(event => isOneOf(patterns, event)));
	const names = patterns.map(({event}) => event).join(' or ');
	const late$ = timeoutMs === undefined ? [] : [timer(timeoutMs)];
	const first = await firstValueFrom(merge(found$, aborted(signal), ...late$), {defaultValue: 0});
	if (typeof first === 'object') return first;
	throw new QuiesceError('FAILED', `no ${names} came within ${(timeoutMs ?? 0) / 1000} s`);
}
