import fc from 'fast-check';
import {expect, test} from 'vitest';
import {ByteFeeder} from '../../src/nbd/byte-feeder.ts';
import {NbdError} from '../../src/nbd/errors.ts';
import * as protocol from '../../src/nbd/protocol.ts';
import {ReadReply} from '../../src/nbd/read-reply.ts';
import {readReplies, type Reply} from '../../src/nbd/replies.ts';
import {StatusReply} from '../../src/nbd/status-reply.ts';
import {
	dataChunk,
	encodeChunk,
	encodeInfo,
	encodeOptionReply,
	errorChunk,
	holeChunk,
	LAST,
	numbers,
	statusChunk,
} from './fake-server.ts';

const safe = fc.nat({max: Number.MAX_SAFE_INTEGER});
const u32 = fc.nat({max: 0xffff_ffff});

/** Pieces of `bytes`, cut anywhere. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
	const ends = [...new Set(cuts.map(cut => cut % (bytes.length + 1)))].sort((one, other) => one - other);
	return [...ends, bytes.length].map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
}

test('a request is encoded as the protocol has it', () => {
	fc.assert(
		fc.property(fc.nat({max: 0xffff}), safe, safe, u32, fc.boolean(), (command, cookie, offset, length, whole) => {
			const bytes = protocol.encodeRequest({command, cookie, offset, length, ...(whole && {answer: 'whole'})});
			expect(bytes).toEqual(
				numbers([0x25609513, 4], [whole ? 4 : 0, 2], [command, 2], [cookie, 8], [offset, 8], [length, 4]),
			);
		}),
	);
});

test('options are encoded as the protocol has them, with names of any letters', () => {
	fc.assert(
		fc.property(fc.string({unit: 'grapheme'}), fc.array(fc.string({unit: 'grapheme'})), (name, queries) => {
			const text = (value: string) => Buffer.concat([numbers([Buffer.byteLength(value), 4]), Buffer.from(value)]);
			const go = protocol.encodeGo(name);
			expect(go).toEqual(Buffer.concat([text(name), numbers([0, 2])]));
			const contexts = protocol.encodeMetaContexts(name, queries);
			expect(contexts).toEqual(Buffer.concat([text(name), numbers([queries.length, 4]), ...queries.map(text)]));
			const option = protocol.encodeOption(10, contexts);
			const head = numbers([0x49484156454f5054n, 8], [10, 4], [contexts.length, 4]);
			expect(option).toEqual(Buffer.concat([head, contexts]));
		}),
	);
	expect(() => protocol.encodeGo('x'.repeat(4097))).toThrow(NbdError);
});

test('offsets and sizes are exact, or refused', () => {
	fc.assert(
		fc.property(fc.bigInt({min: 0n, max: 0xffff_ffff_ffff_ffffn}), value => {
			const decode = () => protocol.decodeExportInfo(encodeInfo(value));
			if (value <= BigInt(Number.MAX_SAFE_INTEGER))
				expect(decode()).toEqual({sizeBytes: Number(value), reads: 'parts'});
			else expect(decode).toThrow(NbdError);
		}),
	);
});

test('the head of an option reply is decoded', () => {
	fc.assert(
		fc.property(u32, u32, fc.uint8Array({maxLength: 4160}), (option, type, data) => {
			const bytes = encodeOptionReply(option, type, Buffer.from(data)).subarray(0, protocol.OPTION_REPLY_BYTES);
			const outcome = type >= 0x8000_0000 ? 'error' : 'answer';
			expect(protocol.decodeOptionReply(bytes, option)).toEqual({type, length: data.length, outcome});
			expect(() => protocol.decodeOptionReply(bytes, option ^ 1)).toThrow(NbdError);
		}),
	);
});

test('a chunk of errors keeps its number and words, and any other bytes are refused as a protocol error', () => {
	fc.assert(
		fc.property(fc.integer({min: 1, max: 0xffff_ffff}), fc.stringMatching(/^[ -~]*$/), (errno, text) => {
			expect(protocol.decodeErrorChunk(errorChunk(1, LAST, errno, text).subarray(20))).toEqual({errno, text});
		}),
	);
	fc.assert(
		fc.property(fc.uint8Array({maxLength: 40}), bytes => {
			try {
				protocol.decodeErrorChunk(Buffer.from(bytes));
			} catch (error) {
				expect(error).toBeInstanceOf(NbdError);
			}
		}),
	);
});

/** Gives a reader of replies what arrives for one request, and returns what becomes of it. */
function receive(arriving: readonly Buffer[], request: Reply): Map<number, Reply> {
	const waiting = new Map([[7, request]]);
	const feeder = new ByteFeeder(readReplies(waiting));
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
		fc.property(layout, ({lengths, holes, ranks, cuts, offset}) => {
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
				return part.hole
					? holeChunk(7, flags, offset + part.at, part.length)
					: dataChunk(7, flags, offset + part.at, data);
			});
			const into = Buffer.alloc(total, 0xff);
			const reply = new ReadReply(offset, into);
			let finished = 0;
			const waiting = receive(pieces(Buffer.concat(chunks), cuts), {
				take: (type, length) => reply.take(type, length),
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

test('a status is taken as it is told, but for what goes beyond the range', () => {
	const extents = fc.array(fc.tuple(fc.integer({min: 1, max: 0xffff}), u32), {minLength: 1, maxLength: 20});
	fc.assert(
		fc.property(extents, fc.nat({max: 0xffff}), fc.array(fc.nat()), (told, excess, cuts) => {
			const sum = told.reduce((one, [length]) => one + length, 0);
			const asked = sum - Math.min(excess, (told.at(-1)?.[0] ?? 1) - 1);
			const reply = new StatusReply(asked, new Map([[3, 'a']]));
			receive(pieces(statusChunk(7, LAST, 3, told), cuts), {
				take: (type, length) => reply.take(type, length),
				finish: () => undefined,
				refuse: () => expect.unreachable(),
			});
			const status = reply.whole().get('a') ?? [];
			expect(status.map(({flags}) => flags)).toEqual(told.map(([, flags]) => flags));
			expect(status.reduce((one, {length}) => one + length, 0)).toBe(asked);
		}),
	);
});

test('any other bytes instead of a reply are refused as a protocol error', () => {
	const noise = fc.oneof(
		fc.uint8Array({maxLength: 200}).map(bytes => Buffer.from(bytes)),
		fc
			.tuple(
				fc.constantFrom(7, 8),
				fc.constantFrom(0, 1, 2, 5, 9, 0x8001),
				fc.constantFrom(0, 1),
				fc.uint8Array({maxLength: 60}),
			)
			.map(([cookie, type, flags, payload]) => encodeChunk(cookie, type, flags, Buffer.from(payload))),
	);
	fc.assert(
		fc.property(fc.array(noise), fc.boolean(), (parts, reads) => {
			const read = new ReadReply(0, Buffer.alloc(20));
			const status = new StatusReply(20, new Map([[3, 'a']]));
			try {
				receive(parts, {
					take: (type, length) => (reads ? read : status).take(type, length),
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
