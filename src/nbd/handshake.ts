import {NbdError} from './errors.ts';
import * as protocol from './protocol.ts';
import type {BytesWanted} from './byte-feeder.ts';

/** The protocol knows five kinds of it. */
const MAX_INFORMATION = 16;

export interface AskedOfServer {
	readonly exportName: string;
	readonly metaContexts: readonly string[];
}

export interface Negotiated extends protocol.ExportInfo {
	/** By the ids that the server gave them. */
	readonly contexts: ReadonlyMap<number, string>;
}

/** The client's side of the handshake, up to where requests may be sent. */
export function* negotiate(
	{exportName, metaContexts}: AskedOfServer,
	send: (bytes: Buffer) => void,
): BytesWanted<Negotiated> {
	const greeting = Buffer.alloc(protocol.GREETING_BYTES);
	yield greeting;
	protocol.checkGreeting(greeting);
	send(protocol.encodeClientFlags(greeting));

	const {structuredReply, setMetaContext, go} = protocol.OPTION;
	send(protocol.encodeOption(structuredReply));
	yield* answers(structuredReply, 0);

	const contexts = new Map<number, string>();
	if (metaContexts.length > 0) {
		send(protocol.encodeOption(setMetaContext, protocol.encodeMetaContexts(exportName, metaContexts)));
		for (const {type, data} of yield* answers(setMetaContext, metaContexts.length)) {
			const {id, name} = protocol.decodeMetaContext(data);
			if (type !== protocol.OPTION_REPLY.metaContext || !metaContexts.includes(name) || contexts.has(id)) {
				throw new NbdError('the server tells of a context that was not asked for');
			}
			contexts.set(id, name);
		}
		const missing = metaContexts.find(name => !contexts.values().some(other => other === name));
		if (missing !== undefined) throw new NbdError(`the export has no context ${missing}`);
	}

	send(protocol.encodeOption(go, protocol.encodeGo(exportName)));
	let info: protocol.ExportInfo | undefined;
	for (const {type, data} of yield* answers(go, MAX_INFORMATION)) {
		if (type !== protocol.OPTION_REPLY.info) throw new NbdError('the server describes its export out of order');
		info = protocol.decodeExportInfo(data) ?? info;
	}
	if (!info) throw new NbdError('the server does not tell the size of its export');
	return {...info, contexts};
}

interface Answer {
	readonly type: number;
	readonly data: Buffer;
}

/** The replies to an option before the acknowledgement, of which there may be so many. */
function* answers(option: number, limit: number): BytesWanted<Answer[]> {
	const found: Answer[] = [];
	for (;;) {
		const head = Buffer.alloc(protocol.OPTION_REPLY_BYTES);
		yield head;
		const {type, length, outcome} = protocol.decodeOptionReply(head, option);
		const data = Buffer.alloc(length);
		yield data;
		if (outcome === 'error') {
			throw new NbdError(`the server refuses: ${data.toString() || `error ${type - 0x8000_0000}`}`);
		}
		if (type === protocol.OPTION_REPLY.ack) {
			if (length > 0) throw new NbdError('the server acknowledges with data');
			return found;
		}
		if (found.length === limit) throw new NbdError('the server answers an option with too much');
		found.push({type, data});
	}
}
