import type {BytesWanted} from './byte-feeder.ts';
import {NbdError} from './errors.ts';
import * as options from './options.ts';
import {type HeaderStyle, OPTION, OPTION_ERROR, OPTION_REPLY} from './protocol.ts';

/** The protocol knows five kinds of it. */
const MAX_INFORMATION = 16;

export interface AskedOfServer {
	readonly exportName: string;
	readonly metaContexts: readonly string[];
	/** Makes the connection one of TLS, from the next byte on. Without it, it stays in the clear. */
	readonly startTls?: (() => Promise<void>) | undefined;
}

export interface Negotiated extends options.ExportInfo {
	readonly style: Exclude<HeaderStyle, 'simple'>;
	/** By the ids that the server gave them. */
	readonly contexts: ReadonlyMap<number, string>;
}

/** The client's side of the handshake, up to where requests may be sent. */
export function* negotiate(
	{exportName, metaContexts, startTls}: AskedOfServer,
	send: (bytes: Buffer) => void,
): BytesWanted<Negotiated> {
	const greeting = Buffer.alloc(options.GREETING_BYTES);
	yield greeting;
	options.checkGreeting(greeting);
	send(options.encodeClientFlags(greeting));

	function* ask(option: number, limit: number, data?: Buffer): BytesWanted<Answers> {
		send(options.encodeOption(option, data));
		return yield* answers(option, limit);
	}

	if (startTls) {
		accepted(yield* ask(OPTION.startTls, 0));
		yield startTls();
	}

	const extended = yield* ask(OPTION.extendedHeaders, 0);
	const style = extended.refusal?.type === OPTION_ERROR.unsupported ? 'structured' : 'extended';
	if (style === 'extended') accepted(extended);
	else accepted(yield* ask(OPTION.structuredReply, 0));

	const contexts = new Map<number, string>();
	if (metaContexts.length > 0) {
		const wanted = options.encodeMetaContexts({exportName, queries: metaContexts});
		for (const {type, data} of accepted(yield* ask(OPTION.setMetaContext, metaContexts.length, wanted))) {
			const {id, name} = options.decodeMetaContext(data);
			if (type !== OPTION_REPLY.metaContext || !metaContexts.includes(name) || contexts.has(id)) {
				throw new NbdError('the server tells of a context that was not asked for');
			}
			contexts.set(id, name);
		}
		const missing = metaContexts.find(name => !contexts.values().some(other => other === name));
		if (missing !== undefined) throw new NbdError(`the export has no context ${missing}`);
	}

	let info: options.ExportInfo | undefined;
	const go = options.encodeGo({exportName, information: []});
	for (const {type, data} of accepted(yield* ask(OPTION.go, MAX_INFORMATION, go))) {
		if (type !== OPTION_REPLY.info) throw new NbdError('the server describes its export out of order');
		info = options.decodeExportInfo(data) ?? info;
	}
	if (!info) throw new NbdError('the server does not tell the size of its export');
	return {...info, style, contexts};
}

interface Answer {
	readonly type: number;
	readonly data: Buffer;
}

interface Answers {
	readonly found: readonly Answer[];
	/** Instead of the acknowledgement. */
	readonly refusal?: Answer;
}

/** The replies to an option up to its end; there may be so many before it. */
function* answers(option: number, limit: number): BytesWanted<Answers> {
	const found: Answer[] = [];
	for (;;) {
		const head = Buffer.alloc(options.OPTION_REPLY_BYTES);
		yield head;
		const {type, length, outcome} = options.decodeOptionReply(head, option);
		const data = Buffer.alloc(length);
		yield data;
		if (outcome === 'error') return {found, refusal: {type, data}};
		if (type === OPTION_REPLY.ack) return {found};
		if (found.length === limit) throw new NbdError('the server answers an option with too much');
		found.push({type, data});
	}
}

/** Throws in the server's words if it refuses. */
function accepted({found, refusal}: Answers): readonly Answer[] {
	if (!refusal) return found;
	throw new NbdError(`the server refuses: ${refusal.data.toString() || `error ${refusal.type - 0x8000_0000}`}`);
}
