import type {BytesWanted} from './byte-feeder.ts';
import {NBD_ERRNO, RequestRefused, toNbdError} from './errno.ts';
import {blockSizesOf, type NbdExport} from './export.ts';
import type {Admitted, InFlight} from './in-flight.ts';
import * as messages from './messages.ts';
import {CHUNK, COMMAND, COMMAND_FLAG, encodeLong, type HeaderStyle, type StatusExtent} from './protocol.ts';
import type {Session} from './server-handshake.ts';

/** The most that one reply tells of a context, so that it takes 64 KiB; a client asks again for what follows. */
const MAX_EXTENTS = 4000;
/** Where the data of a refused write goes. */
const NOWHERE = Buffer.allocUnsafeSlow(64 * 1024);

export interface Transmission {
	readonly session: Session;
	readonly inFlight: InFlight;
	/** Sends the parts as one message, and calls `sent` once the memory is no longer needed, also if they get lost. */
	readonly send: (parts: readonly Buffer[], sent: () => void) => void;
}

/**
 * The server's side of the transmission phase. Requests are carried out side by side and answered when they are done. Ends
 * when the client takes its leave.
 */
export function* transmit({session, inFlight, send}: Transmission): BytesWanted<void> {
	const head = Buffer.alloc(messages.REQUEST_BYTES[session.style]);
	for (;;) {
		yield head;
		const request = messages.decodeRequest(session.style, head);
		if (request.command === COMMAND.disconnect) return;
		const payloadBytes = hasPayload(session.style, request) ? request.length : 0;
		const refusal = refusalOf(session, request);
		if (refusal) yield* skip(payloadBytes);
		const admitted = yield* inFlight.admit(refusal ? 0 : memoryFor(session, request));
		if (refusal) {
			send(encodeRefusal(session.style, request, refusal), admitted.release);
			continue;
		}
		if (payloadBytes > 0) yield* receive(admitted);
		void perform(session, request, admitted.buffer).then(parts => {
			send(parts, admitted.release);
		});
	}
}

/** QEMU's own client has extended writes with data, but without the flag that says so (seen on 10.0 and 11.1). */
function hasPayload(style: HeaderStyle, {command, flags}: messages.Request): boolean {
	return command === COMMAND.write || (style === 'extended' && (flags & COMMAND_FLAG.payloadLength) !== 0);
}

function* skip(length: number): BytesWanted<void> {
	for (let left = length; left > 0; left -= NOWHERE.length) yield NOWHERE.subarray(0, Math.min(left, NOWHERE.length));
}

function* receive({buffer, release}: Admitted): BytesWanted<void> {
	let state: 'partial' | 'whole' = 'partial';
	try {
		yield buffer;
		state = 'whole';
	} finally {
		// The connection has ended in between.
		if (state === 'partial') release();
	}
}

function memoryFor({style, contexts}: Session, {command, length}: messages.Request): number {
	if (command === COMMAND.read || command === COMMAND.write) return length;
	if (command !== COMMAND.blockStatus || style === 'simple') return 0;
	const {[style]: headBytes} = messages.CHUNK_HEAD_BYTES;
	return (
		contexts.size * (headBytes + messages.STATUS_HEAD_BYTES[style] + MAX_EXTENTS * messages.STATUS_EXTENT_BYTES[style])
	);
}

const WRITES: readonly number[] = [COMMAND.write, COMMAND.writeZeroes, COMMAND.trim];
/** Beside `NBD_CMD_FLAG_FUA`, which every command may have. */
const FLAGS: Partial<Record<number, number>> = {
	[COMMAND.read]: COMMAND_FLAG.dontFragment,
	[COMMAND.writeZeroes]: COMMAND_FLAG.noHole | COMMAND_FLAG.fastZero,
	[COMMAND.blockStatus]: COMMAND_FLAG.oneExtent,
};

/** Why a request is not carried out, if it is not: "Request types", "Error values". */
function refusalOf({shown, style, contexts}: Session, request: messages.Request): RequestRefused | undefined {
	const {command, offset, length} = request;
	const {minimum, maximum} = blockSizesOf(shown);
	if (WRITES.includes(command) && !shown.write) return new RequestRefused('EPERM', 'the export is read-only');
	if (!isKnown(shown, command, contexts)) return new RequestRefused('EINVAL', `there is no command ${command} here`);
	const payload = style === 'extended' && command === COMMAND.write ? COMMAND_FLAG.payloadLength : 0;
	const fua = shown.flush ? COMMAND_FLAG.fua : 0;
	const allowed = (FLAGS[command] ?? 0) | fua | payload;
	if ((request.flags & ~allowed) !== 0) {
		return new RequestRefused('EINVAL', `command ${command} does not go with flags ${request.flags}`);
	}
	if (command === COMMAND.flush) {
		return offset === 0 && length === 0 ? undefined : new RequestRefused('EINVAL', 'a flush has no range');
	}
	if (!(length > 0 && offset + length <= shown.sizeBytes)) {
		const errno = length > 0 && WRITES.includes(command) ? 'ENOSPC' : 'EINVAL';
		return new RequestRefused(errno, `no ${length} bytes at ${offset} of ${shown.sizeBytes}`);
	}
	if (offset % minimum !== 0 || length % minimum !== 0) {
		return new RequestRefused('EINVAL', `${length} bytes at ${offset} are no multiples of ${minimum}`);
	}
	if (length > maximum && (command === COMMAND.read || command === COMMAND.write)) {
		return new RequestRefused('EINVAL', `${length} bytes are more than ${maximum}`);
	}
	return undefined;
}

function isKnown(shown: NbdExport, command: number, contexts: ReadonlyMap<number, string>): boolean {
	switch (command) {
		case COMMAND.read:
			return shown.read !== undefined;
		case COMMAND.write:
			return true;
		case COMMAND.flush:
			return shown.flush !== undefined;
		case COMMAND.trim:
			return shown.trim !== undefined;
		case COMMAND.writeZeroes:
			return shown.writeZeroes !== undefined;
		case COMMAND.cache:
			return shown.cache !== undefined;
		case COMMAND.blockStatus:
			return contexts.size > 0;
		default:
			return false;
	}
}

/** Carries a request out, and makes its reply. Never rejects. */
async function perform(session: Session, request: messages.Request, buffer: Buffer): Promise<readonly Buffer[]> {
	const {shown, style} = session;
	const {command, offset, length, flags} = request;
	const has = (flag: number): boolean => (flags & flag) !== 0;
	try {
		switch (command) {
			case COMMAND.read:
				await shown.read?.(offset, buffer);
				return encodeRead(style, request, buffer);
			case COMMAND.write:
				await shown.write?.(offset, buffer);
				break;
			case COMMAND.writeZeroes:
				await shown.writeZeroes?.(offset, length, {
					space: has(COMMAND_FLAG.noHole) ? 'keep' : 'release',
					speed: has(COMMAND_FLAG.fastZero) ? 'fast' : 'any',
				});
				break;
			case COMMAND.trim:
				await shown.trim?.(offset, length);
				break;
			case COMMAND.flush:
				await shown.flush?.();
				break;
			case COMMAND.cache:
				await shown.cache?.(offset, length);
				break;
			case COMMAND.blockStatus:
				return [await encodeStatus(session, request, buffer)];
		}
		if (has(COMMAND_FLAG.fua) && WRITES.includes(command)) await shown.flush?.();
		return [encodeDone(style, request)];
	} catch (error) {
		return encodeRefusal(style, request, error);
	}
}

function encodeDone(style: HeaderStyle, {cookie, offset}: messages.Request): Buffer {
	if (style !== 'extended') return messages.encodeSimpleReply(cookie, 0);
	return messages.encodeChunkHead(style, {cookie, type: CHUNK.none, position: 'last', offset, length: 0});
}

function encodeRefusal(style: HeaderStyle, {cookie, offset, flags}: messages.Request, error: unknown): Buffer[] {
	const told = toNbdError(error);
	// Only a request for what is fast may be refused so: "Request types".
	const notFast = told.errno === NBD_ERRNO.ENOTSUP && (flags & COMMAND_FLAG.fastZero) === 0;
	const errno = notFast ? NBD_ERRNO.EINVAL : told.errno;
	if (style === 'simple') return [messages.encodeSimpleReply(cookie, errno)];
	const payload = messages.encodeErrorPayload(errno, told.text);
	const {length} = payload;
	return [messages.encodeChunkHead(style, {cookie, type: CHUNK.error, position: 'last', offset, length}), payload];
}

function encodeRead(style: HeaderStyle, {cookie, offset, length}: messages.Request, data: Buffer): Buffer[] {
	if (style === 'simple') return [messages.encodeSimpleReply(cookie, 0), data];
	const headBytes = messages.CHUNK_HEAD_BYTES[style];
	const head = Buffer.alloc(headBytes + 8);
	messages.encodeChunkHead(style, {cookie, type: CHUNK.data, position: 'last', offset, length: length + 8}, head);
	encodeLong(offset, head, headBytes);
	return [head, data];
}

/** All contexts one after the other, in `buffer`. */
async function encodeStatus(
	{shown, style, contexts}: Session,
	{cookie, offset, length, flags}: messages.Request,
	buffer: Buffer,
): Promise<Buffer> {
	if (style === 'simple') throw new RequestRefused('EINVAL', 'there are no structured replies');
	const limit = (flags & COMMAND_FLAG.oneExtent) === 0 ? MAX_EXTENTS : 1;
	const headBytes = messages.CHUNK_HEAD_BYTES[style];
	let at = 0;
	let left = contexts.size;
	for (const [id, name] of contexts) {
		const told = (await shown.blockStatus?.(name, offset, length, limit)) ?? [];
		const extents = withinRange(told, length).slice(0, limit);
		if (extents.length === 0) throw new RangeError(`no status in ${name}`);
		const payloadBytes = messages.encodeStatusPayload(style, id, extents, buffer.subarray(at + headBytes));
		const position = --left === 0 ? 'last' : 'more-follow';
		const type = messages.STATUS_CHUNK[style];
		messages.encodeChunkHead(style, {cookie, type, position, offset, length: payloadBytes}, buffer.subarray(at));
		at += headBytes + payloadBytes;
	}
	return buffer.subarray(0, at);
}

/** Nothing after what was asked for, and no more than fits in 32 bits. */
function withinRange(extents: readonly StatusExtent[], length: number): StatusExtent[] {
	const within: StatusExtent[] = [];
	let left = length;
	for (const extent of extents) {
		if (left <= 0) break;
		const part = Math.min(extent.length, left);
		if (part > 0) within.push({length: part, flags: extent.flags});
		left -= part;
	}
	return within;
}
