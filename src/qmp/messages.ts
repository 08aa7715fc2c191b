import {QmpProtocolError} from './errors.ts';
import type {QmpReply} from './pending-commands.ts';
import type {QmpEvent, QmpVersionInfo} from './schema.ts';

export interface Greeting {
	readonly version: QmpVersionInfo;
	readonly capabilities: readonly unknown[];
}

export type QmpMessage =
	| {readonly kind: 'greeting'; readonly greeting: Greeting}
	| {readonly kind: 'event'; readonly event: QmpEvent}
	| {readonly kind: 'reply'; readonly reply: QmpReply}
	| {readonly kind: 'error-without-id'; readonly description: string}
	| {readonly kind: 'other'};

type Members = Readonly<Record<string, unknown>>;

/** Looks just far enough into a message to know where it goes. Throws {@link QmpProtocolError} on what QMP never sends. */
export function parseMessage(text: string): QmpMessage {
	const message = parseObject(text);
	if ('QMP' in message) return {kind: 'greeting', greeting: parseGreeting(message['QMP'])};
	if (typeof message['event'] === 'string') {
		const data = membersOf(message['data'] ?? {}, "an event's data");
		return {kind: 'event', event: {...message, data} as unknown as QmpEvent};
	}
	const error = parseError(message['error']);
	const id = message['id'];
	if (!error && message['return'] === undefined) {
		throw new QmpProtocolError('a message is neither a greeting, an event nor a reply');
	}
	if (typeof id === 'string') {
		return {kind: 'reply', reply: error ? {id, error} : {id, return: message['return']}};
	}
	if (error && id === undefined) return {kind: 'error-without-id', description: error.desc};
	return {kind: 'other'};
}

function parseObject(text: string): Members {
	let value: unknown;
	try {
		value = JSON.parse(text);
	} catch (cause) {
		throw new QmpProtocolError('a message is not JSON', {cause});
	}
	return membersOf(value, 'a message');
}

function parseGreeting(value: unknown): Greeting {
	const greeting = membersOf(value, 'the greeting');
	const version = membersOf(greeting['version'], 'the greeting');
	const qemu = membersOf(version['qemu'], 'the greeting');
	const number = (name: string): number => {
		const part = qemu[name];
		if (typeof part !== 'number') throw new QmpProtocolError('the greeting has no version');
		return part;
	};
	const packageName = version['package'];
	return {
		version: {
			qemu: {major: number('major'), minor: number('minor'), micro: number('micro')},
			package: typeof packageName === 'string' ? packageName : '',
		},
		capabilities: Array.isArray(greeting['capabilities']) ? (greeting['capabilities'] as unknown[]) : [],
	};
}

function parseError(value: unknown): QmpReply['error'] {
	if (value === undefined) return undefined;
	const error = membersOf(value, 'an error');
	const {class: errorClass, desc} = error;
	if (typeof errorClass !== 'string' || typeof desc !== 'string') {
		throw new QmpProtocolError('an error has no class or description');
	}
	return {class: errorClass, desc};
}

function membersOf(value: unknown, what: string): Members {
	if (typeof value !== 'object' || value === null || Array.isArray(value)) {
		throw new QmpProtocolError(`${what} is not an object`);
	}
	return value as Members;
}
