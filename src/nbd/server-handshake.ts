import type {BytesWanted} from './byte-feeder.ts';
import {NbdError} from './errors.ts';
import {blockSizesOf, type NbdExport} from './export.ts';
import * as options from './options.ts';
import {
	type HeaderStyle,
	INFO,
	MAX_STRING_BYTES,
	OPTION,
	OPTION_ERROR,
	OPTION_REPLY,
	TRANSMISSION_FLAG,
} from './protocol.ts';

/** A name and many contexts fit in; whoever sends more means no good. */
const MAX_OPTION_BYTES = 64 * 1024;
/** A client that lists many exports asks for each of them. */
const MAX_OPTIONS = 1024;
const MAX_CONTEXTS = 16;

export interface Offer {
	readonly exports: ReadonlyMap<string, NbdExport>;
	readonly send: (bytes: Buffer) => void;
	/** Makes the connection one of TLS, from the next byte on. Without it there is none. */
	readonly startTls?: () => Promise<void>;
}

/** What was agreed on. */
export interface Session {
	readonly shown: NbdExport;
	readonly style: HeaderStyle;
	/** By the ids that the client was told. */
	readonly contexts: ReadonlyMap<number, string>;
}

interface State {
	style: HeaderStyle;
	contexts: ReadonlyMap<number, string>;
	/** Of which export the contexts are. */
	contextsOf: string | undefined;
	security: 'plain' | 'required' | 'started';
}

const FRESH = {style: 'simple', contexts: new Map<number, string>(), contextsOf: undefined} as const;

/** The server's side of the handshake. Returns what was agreed on, or nothing if the client takes its leave. */
export function* offer({exports, send, startTls}: Offer): BytesWanted<Session | undefined> {
	send(options.encodeGreeting());
	const flags = Buffer.alloc(options.CLIENT_FLAGS_BYTES);
	yield flags;
	const padding = options.decodeClientFlags(flags);
	const state: State = {...FRESH, security: startTls ? 'required' : 'plain'};
	const session = (name: string, shown: NbdExport): Session => ({
		shown,
		style: state.style,
		contexts: state.contextsOf === name ? state.contexts : FRESH.contexts,
	});

	for (let count = 0; count < MAX_OPTIONS; count++) {
		const head = Buffer.alloc(options.OPTION_HEAD_BYTES);
		yield head;
		const {option, length} = options.decodeOptionHead(head);
		if (length > MAX_OPTION_BYTES) throw new NbdError(`the client sends an option of ${length} bytes`);
		const data = Buffer.alloc(length);
		yield data;
		const reply = (type: number, payload?: Buffer): void => {
			send(options.encodeOptionReply(option, type, payload));
		};
		const refuse = (type: number, words: string): void => {
			reply(type, Buffer.from(words));
		};

		if (option === OPTION.abort) {
			reply(OPTION_REPLY.ack);
			return undefined;
		}
		if (option === OPTION.exportName) {
			const name = data.toString();
			const shown = exports.get(name);
			// There is no other way to refuse it, and extended headers exclude it.
			if (!shown || state.security === 'required' || state.style === 'extended') {
				throw new NbdError('the client asks for what it cannot have, in a way that cannot be answered');
			}
			send(options.encodeExportAnswer(shown.sizeBytes, transmissionFlags(shown, state.style), padding));
			return session(name, shown);
		}
		if (option === OPTION.startTls && startTls) {
			if (length > 0 || state.security === 'started') {
				refuse(OPTION_ERROR.invalid, 'TLS is started once, and without data');
				continue;
			}
			reply(OPTION_REPLY.ack);
			yield startTls();
			// Nothing that was agreed on in the clear holds.
			Object.assign(state, FRESH, {security: 'started'});
			continue;
		}
		if (state.security === 'required') {
			refuse(OPTION_ERROR.tlsRequired, 'TLS has to be started first');
			continue;
		}

		switch (option) {
			case OPTION.list:
				if (length > 0) {
					refuse(OPTION_ERROR.invalid, 'a list is asked for without data');
					break;
				}
				for (const [name, {description}] of exports) {
					reply(OPTION_REPLY.server, options.encodeListed(name, description ?? ''));
				}
				reply(OPTION_REPLY.ack);
				break;
			case OPTION.structuredReply:
			case OPTION.extendedHeaders: {
				const style = option === OPTION.extendedHeaders ? 'extended' : 'structured';
				if (length > 0 || state.style === style) refuse(OPTION_ERROR.invalid, 'it is agreed on once, without data');
				else if (state.style === 'extended') refuse(OPTION_ERROR.extendedHeadersRequired, 'headers are extended');
				else {
					state.style = style;
					reply(OPTION_REPLY.ack);
				}
				break;
			}
			case OPTION.listMetaContext:
			case OPTION.setMetaContext: {
				const wanted = wellFormed(options.decodeMetaContexts, data);
				const setting = option === OPTION.setMetaContext;
				if (setting) Object.assign(state, {contexts: FRESH.contexts, contextsOf: undefined});
				if (!wanted || state.style === 'simple') {
					refuse(OPTION_ERROR.invalid, 'contexts are asked for with well-formed data, after structured replies');
					break;
				}
				const shown = exports.get(wanted.exportName);
				if (!shown) {
					refuse(OPTION_ERROR.unknown, `there is no export '${wanted.exportName}'`);
					break;
				}
				const names = matching(shown.contexts ?? [], wanted.queries, setting ? 'set' : 'list');
				if (names.length > MAX_CONTEXTS) {
					refuse(OPTION_ERROR.tooBig, `at most ${MAX_CONTEXTS} contexts`);
					break;
				}
				const contexts = new Map(names.map((name, index) => [index + 1, name]));
				for (const [id, name] of contexts) {
					reply(OPTION_REPLY.metaContext, options.encodeMetaContext(setting ? id : 0, name));
				}
				reply(OPTION_REPLY.ack);
				if (setting) Object.assign(state, {contexts, contextsOf: wanted.exportName});
				break;
			}
			case OPTION.info:
			case OPTION.go: {
				const wanted = wellFormed(options.decodeGo, data);
				const shown = wanted && exports.get(wanted.exportName);
				if (!wanted) refuse(OPTION_ERROR.invalid, 'an export is asked for with well-formed data');
				else if (!shown) refuse(OPTION_ERROR.unknown, `there is no export '${wanted.exportName}'`);
				else {
					for (const information of describe(wanted, shown, state.style)) reply(OPTION_REPLY.info, information);
					reply(OPTION_REPLY.ack);
					if (option === OPTION.go) return session(wanted.exportName, shown);
				}
				break;
			}
			default:
				refuse(OPTION_ERROR.unsupported, `there is no option ${option} here`);
		}
	}
	throw new NbdError(`the client sends more than ${MAX_OPTIONS} options`);
}

function wellFormed<Data>(decode: (data: Buffer) => Data, data: Buffer): Data | undefined {
	try {
		return decode(data);
	} catch (error) {
		if (error instanceof NbdError) return undefined;
		throw error;
	}
}

/** To list, no query means all of them, and one that ends in a colon those that begin with it. */
function matching(all: readonly string[], queries: readonly string[], how: 'set' | 'list'): string[] {
	if (how === 'set') return all.filter(name => queries.includes(name));
	if (queries.length === 0) return [...all];
	return all.filter(name => queries.some(query => query === name || (query.endsWith(':') && name.startsWith(query))));
}

function* describe(wanted: options.ExportWanted, shown: NbdExport, style: HeaderStyle): Generator<Buffer> {
	yield options.encodeExportInfo(shown.sizeBytes, transmissionFlags(shown, style));
	if (wanted.information.includes(INFO.name)) yield options.encodeTextInfo(INFO.name, wanted.exportName);
	if (wanted.information.includes(INFO.description) && shown.description !== undefined) {
		yield options.encodeTextInfo(INFO.description, shown.description);
	}
	if (wanted.information.includes(INFO.blockSize) || shown.blockSizes) {
		yield options.encodeBlockSizes(blockSizesOf(shown));
	}
}

/** What clients are told of what an export can do. */
function transmissionFlags(shown: NbdExport, style: HeaderStyle): number {
	const {hasFlags, readOnly, flush, fua, trim, writeZeroes, fastZero, dontFragment, multiConnection, cache} =
		TRANSMISSION_FLAG;
	let flags: number = hasFlags;
	if (shown.flush) flags |= flush;
	if (!shown.write) flags |= readOnly;
	else {
		if (shown.flush) flags |= fua;
		if (shown.trim) flags |= trim;
		if (shown.writeZeroes) flags |= writeZeroes | fastZero;
	}
	if (style !== 'simple') flags |= dontFragment;
	// What is only read has nothing that could be incoherent.
	if (!shown.write || shown.connections === 'coherent') flags |= multiConnection;
	if (shown.cache) flags |= cache;
	return flags;
}

/** Whether clients can be told of an export by this name. */
export function isExportName(name: string): boolean {
	return Buffer.byteLength(name) <= MAX_STRING_BYTES && !name.includes('\0');
}
