import fc from 'fast-check';
import {expect, test} from 'vitest';
import {ByteFeeder} from '../../src/nbd/byte-feeder.ts';
import {NbdError} from '../../src/nbd/errors.ts';
import * as messages from '../../src/nbd/messages.ts';
import * as options from '../../src/nbd/options.ts';
import {CHUNK} from '../../src/nbd/protocol.ts';
import {ReadReply} from '../../src/nbd/read-reply.ts';
import {readReplies, type Reply} from '../../src/nbd/replies.ts';
import {StatusReply} from '../../src/nbd/status-reply.ts';
import {encodeChunk, encodeInfo, encodeOptionReply, errorChunk, LAST, numbers} from './fake-server.ts';

const safe = fc.nat({max: Number.MAX_SAFE_INTEGER});
const u32 = fc.nat({max: 0xffff_ffff});

/** Pieces of `bytes`, cut anywhere. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
	const ends = [...new Set(cuts.map(cut => cut % (bytes.length + 1)))].sort((one, other) => one - other);
	return [...ends, bytes.length].map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
}

const u16 = fc.nat({max: 0xffff});
const cookie = fc.bigInt({min: 0n, max: 0xffff_ffff_ffff_ffffn});
const text = fc.string({unit: 'grapheme'});
const style = fc.constantFrom('structured', 'extended');
const position = fc.constantFrom('last', 'more-follow');

/** A string as the protocol has it. */
const counted = (value: string) => Buffer.concat([numbers([Buffer.byteLength(value), 4]), Buffer.from(value)]);

test('a request is encoded as the protocol has it, and decoded again', () => {
	fc.assert(
		fc.property(u16, u16, cookie, safe, safe, u32, (command, flags, cookie, offset, long, short) => {
			const request = {command, flags, cookie, offset, length: short};
			const compact = messages.encodeRequest('structured', request);
			const rest = [
				[flags, 2],
				[command, 2],
				[cookie, 8],
				[offset, 8],
			] as const;
			expect(compact).toEqual(numbers([0x25609513, 4], ...rest, [short, 4]));
			expect(messages.decodeRequest('simple', compact)).toEqual(request);
			const extended = messages.encodeRequest('extended', {...request, length: long});
			expect(extended).toEqual(numbers([0x21e41c71, 4], ...rest, [long, 8]));
			expect(messages.decodeRequest('extended', extended)).toEqual({...request, length: long});
			expect(() => messages.decodeRequest('simple', extended)).toThrow(NbdError);
		}),
	);
});

test('options are encoded as the protocol has them, with names of any letters, and decoded again', () => {
	fc.assert(
		fc.property(text, fc.array(text), fc.array(u16, {maxLength: 20}), (exportName, queries, information) => {
			const go = options.encodeGo({exportName, information});
			const asked = numbers([information.length, 2], ...information.map(type => [type, 2] as const));
			expect(go).toEqual(Buffer.concat([counted(exportName), asked]));
			expect(options.decodeGo(go)).toEqual({exportName, information});
			const contexts = options.encodeMetaContexts({exportName, queries});
			const all = [counted(exportName), numbers([queries.length, 4]), ...queries.map(counted)];
			expect(contexts).toEqual(Buffer.concat(all));
			expect(options.decodeMetaContexts(contexts)).toEqual({exportName, queries});
			const option = options.encodeOption(10, contexts);
			const head = numbers([0x49484156454f5054n, 8], [10, 4], [contexts.length, 4]);
			expect(option).toEqual(Buffer.concat([head, contexts]));
			expect(options.decodeOptionHead(option)).toEqual({option: 10, length: contexts.length});
			const named = options.encodeMetaContext(7, exportName);
			expect(options.decodeMetaContext(named)).toEqual({id: 7, name: exportName});
		}),
	);
	expect(() => options.encodeGo({exportName: 'x'.repeat(4097), information: []})).toThrow(NbdError);
});

test('data of options that are cut, too long or made of anything are refused as a protocol error', () => {
	const decoders = [options.decodeGo, options.decodeMetaContexts] as const;
	fc.assert(
		fc.property(text, fc.array(text), fc.nat(), fc.uint8Array({minLength: 1}), (exportName, queries, cut, more) => {
			for (const whole of [
				options.encodeGo({exportName, information: [3, 2]}),
				options.encodeMetaContexts({exportName, queries}),
			]) {
				const decode = decoders.find(one => !throws(() => one(whole)));
				expect(() => decode?.(whole.subarray(0, cut % whole.length))).toThrow(NbdError);
				expect(() => decode?.(Buffer.concat([whole, more]))).toThrow(NbdError);
			}
			for (const decode of decoders)
				expect(throws(() => decode(Buffer.from(more))) ?? 'well').toSatisfy(isProtocolError);
		}),
	);
});

function throws(work: () => unknown): unknown {
	try {
		work();
		return undefined;
	} catch (error) {
		return error;
	}
}

const isProtocolError = (end: unknown): boolean => end === 'well' || end instanceof NbdError;

test('offsets and sizes are exact, or refused', () => {
	fc.assert(
		fc.property(cookie, value => {
			const decode = () => options.decodeExportInfo(encodeInfo(value));
			if (value <= BigInt(Number.MAX_SAFE_INTEGER)) {
				expect(decode()).toEqual({sizeBytes: Number(value), reads: 'parts'});
				expect(options.encodeExportInfo(Number(value), 1)).toEqual(encodeInfo(value));
			} else {
				expect(decode).toThrow(NbdError);
			}
		}),
	);
});

test('the head of an option reply is decoded', () => {
	fc.assert(
		fc.property(u32, u32, fc.uint8Array({maxLength: 4160}), (option, type, data) => {
			const whole = options.encodeOptionReply(option, type, Buffer.from(data));
			expect(whole).toEqual(encodeOptionReply(option, type, Buffer.from(data)));
			const bytes = whole.subarray(0, options.OPTION_REPLY_BYTES);
			if (type === 1 && data.length > 0) {
				expect(() => options.decodeOptionReply(bytes, option)).toThrow(NbdError);
				return;
			}
			const outcome = type >= 0x8000_0000 ? 'error' : 'answer';
			expect(options.decodeOptionReply(bytes, option)).toEqual({type, length: data.length, outcome});
			expect(() => options.decodeOptionReply(bytes, option ^ 1)).toThrow(NbdError);
		}),
	);
});

test('the head of a reply is encoded as the protocol has it, and decoded again', () => {
	fc.assert(
		fc.property(style, cookie, u16, position, safe, u32, (style, cookie, type, position, offset, length) => {
			const bytes = messages.encodeChunkHead(style, {cookie, type, position, offset, length});
			const done = position === 'last' ? 1 : 0;
			const common = [
				[done, 2],
				[type, 2],
				[cookie, 8],
			] as const;
			expect(bytes).toEqual(
				style === 'extended'
					? numbers([0x6e8a278c, 4], ...common, [offset, 8], [length, 8])
					: numbers([0x668e33ef, 4], ...common, [length, 4]),
			);
			expect(messages.decodeReplyHead(style, bytes)).toEqual({
				kind: 'chunk',
				cookie,
				type,
				position,
				outcome: type >= 0x8000 ? 'error' : 'answer',
				length: style === 'extended' ? length : undefined,
			});
			const simple = messages.encodeSimpleReply(cookie, type);
			expect(messages.decodeReplyHead('structured', simple)).toEqual({kind: 'simple', cookie, errno: type});
		}),
	);
});

test('a chunk of errors keeps its number and words, and any other bytes are refused as a protocol error', () => {
	fc.assert(
		fc.property(fc.integer({min: 1, max: 0xffff_ffff}), fc.stringMatching(/^[ -~]*$/), (errno, text) => {
			const payload = messages.encodeErrorPayload(errno, text);
			expect(payload).toEqual(errorChunk(1, LAST, errno, text).subarray(20));
			expect(messages.decodeErrorPayload(payload)).toEqual({errno, text});
		}),
	);
	fc.assert(
		fc.property(fc.uint8Array({maxLength: 40}), bytes => {
			expect(throws(() => messages.decodeErrorPayload(Buffer.from(bytes))) ?? 'well').toSatisfy(isProtocolError);
		}),
	);
});

type Style = 'structured' | 'extended';

/** A chunk in answer to request 7. */
function chunk(style: Style, type: number, flags: number, payload: Buffer): Buffer {
	const position = flags === LAST ? 'last' : 'more-follow';
	const head = {cookie: 7n, type, position, offset: 0, length: payload.length} as const;
	return Buffer.concat([messages.encodeChunkHead(style, head), payload]);
}

/** Gives a reader of replies what arrives for one request, and returns what becomes of it. */
function receive(style: Style, arriving: readonly Buffer[], request: Reply): Map<bigint, Reply> {
	const waiting = new Map([[7n, request]]);
	const feeder = new ByteFeeder(readReplies(style, waiting));
	for (const part of arriving) feeder.push(part);
	return waiting;
}

test('what is read is put together from chunks in any order, cut anywhere', () => {
	const layout = fc.record({
		lengths: fc.array(
			fc.nat({max: 300}).map(n => n + 1),
			{minLength: 1, maxLength: 12},
		),
		holes: fc.array(fc.boolean(), {minLength: 12, maxLength: 12}),
		ranks: fc.array(fc.nat(), {minLength: 12, maxLength: 12}),
		cuts: fc.array(fc.nat()),
		offset: fc.nat({max: Number.MAX_SAFE_INTEGER - 10_000}),
	});
	fc.assert(
		fc.property(style, layout, (style, {lengths, holes, ranks, cuts, offset}) => {
			const total = lengths.reduce((one, other) => one + other, 0);
			const expected = Buffer.alloc(total);
			let at = 0;
			const parts = lengths.map((length, index) => {
				const part = {at, hole: holes[index], rank: ranks[index] ?? 0, length};
				if (!part.hole) expected.fill(0x40 + (at % 100), at, at + length);
				at += length;
				return part;
			});
			// The reply tells no crumbs apart that are smaller than sectors, unless they are in order.
			if (parts.length <= total / 512) parts.sort((one, other) => one.rank - other.rank);
			const chunks = parts.map((part, index) => {
				const flags = index === parts.length - 1 ? LAST : 0;
				const data = expected.subarray(part.at, part.at + part.length);
				const where = numbers([offset + part.at, 8]);
				return part.hole
					? chunk(style, CHUNK.hole, flags, Buffer.concat([where, numbers([part.length, 4])]))
					: chunk(style, CHUNK.data, flags, Buffer.concat([where, data]));
			});
			const into = Buffer.alloc(total, 0xff);
			const reply = new ReadReply(offset, into);
			let finished = 0;
			const waiting = receive(style, pieces(Buffer.concat(chunks), cuts), {
				answer: reply,
				finish: () => {
					reply.checkWhole();
					finished++;
				},
				refuse: () => expect.unreachable(),
			});
			expect(finished).toBe(1);
			expect(waiting.size).toBe(0);
			expect(into).toEqual(expected);
		}),
	);
});

test('a status is encoded and decoded again, and taken as it is told, but for what goes beyond the range', () => {
	const extents = fc.array(fc.record({length: fc.integer({min: 1, max: 0xffff}), flags: u32}), {
		minLength: 1,
		maxLength: 20,
	});
	fc.assert(
		fc.property(style, extents, fc.nat({max: 0xffff}), fc.array(fc.nat()), (style, told, excess, cuts) => {
			const bytes = Buffer.alloc(8 + 16 * told.length);
			const payload = bytes.subarray(0, messages.encodeStatusPayload(style, 3, told, bytes));
			expect(messages.decodeStatusPayload(style, payload)).toEqual({contextId: 3, extents: told});
			const sum = told.reduce((one, {length}) => one + length, 0);
			const asked = sum - Math.min(excess, (told.at(-1)?.length ?? 1) - 1);
			const reply = new StatusReply(style, asked, new Map([[3, 'a']]));
			receive(style, pieces(chunk(style, messages.STATUS_CHUNK[style], LAST, payload), cuts), {
				answer: reply,
				finish: () => undefined,
				refuse: () => expect.unreachable(),
			});
			const status = reply.whole().get('a') ?? [];
			expect(status.map(({flags}) => flags)).toEqual(told.map(({flags}) => flags));
			expect(status.reduce((one, {length}) => one + length, 0)).toBe(asked);
		}),
	);
});

test('any other bytes instead of a reply are refused as a protocol error', () => {
	const noise = fc.oneof(
		fc.uint8Array({maxLength: 200}).map(bytes => Buffer.from(bytes)),
		fc
			.tuple(fc.constantFrom(0, 1, 2, 5, 6, 9, 0x8001), fc.constantFrom(0, LAST), fc.uint8Array({maxLength: 60}), style)
			.map(([type, flags, payload, style]) => chunk(style, type, flags, Buffer.from(payload))),
		fc.uint8Array({maxLength: 60}).map(payload => encodeChunk(8, 1, LAST, Buffer.from(payload))),
	);
	fc.assert(
		fc.property(style, fc.array(noise), fc.boolean(), (style, parts, reads) => {
			const read = new ReadReply(0, Buffer.alloc(20));
			const status = new StatusReply(style, 20, new Map([[3, 'a']]));
			try {
				receive(style, parts, {
					answer: reads ? read : status,
					finish: () => {
						if (reads) read.checkWhole();
						else status.whole();
					},
					refuse: () => undefined,
				});
			} catch (error) {
				expect(error).toBeInstanceOf(NbdError);
			}
		}),
		{numRuns: 2000},
	);
});
