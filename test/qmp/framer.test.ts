import fc from 'fast-check';
import {expect, test} from 'vitest';
import {QmpProtocolError} from '../../src/qmp/errors.ts';
import {JsonObjectFramer} from '../../src/qmp/framer.ts';

const MiB = 1024 * 1024;

const tricky = fc
	.array(fc.constantFrom('{', '}', '[', ']', '"', '\\', '\\"', '\n', '\u0000', 'é', '𝄞', 'x'), {maxLength: 12})
	.map(parts => parts.join(''));
const text = fc.oneof(fc.string({unit: 'grapheme'}), tricky);
const {value} = fc.letrec(tie => ({
	value: fc.oneof(
		{depthSize: 'medium', withCrossShrink: true},
		text,
		fc.double({noNaN: true, noDefaultInfinity: true}),
		fc.boolean(),
		fc.constant(null),
		fc.array(tie('value'), {maxLength: 4}),
		fc.dictionary(text, tie('value'), {maxKeys: 4}),
	),
}));
const message = fc.dictionary(text, value, {maxKeys: 5}).map(members => JSON.parse(JSON.stringify(members)) as unknown);

interface Spelling {
	readonly pretty: boolean;
	/** QEMU sends nothing but ASCII; other servers may not. */
	readonly ascii: boolean;
	readonly end: string;
}
const spelling = fc.record({pretty: fc.boolean(), ascii: fc.boolean(), end: fc.constantFrom('\r\n', '\n', '', ' \t')});

function spell(value: unknown, {pretty, ascii, end}: Spelling): Buffer {
	let json = JSON.stringify(value, undefined, pretty ? 4 : undefined).replaceAll('\n', '\r\n');
	if (ascii)
		json = json.replaceAll(/[\u0080-\uffff]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
	return Buffer.from(json + end);
}

/** Cuts at the given places, some of which may be the same. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
	const edges = [0, ...cuts.map(cut => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
	return edges.slice(1).map((edge, index) => bytes.subarray(edges[index], edge));
}

/** As text: `toEqual` takes some objects of odd keys for unlike themselves. */
function textsOf(messages: readonly unknown[]): string[] {
	return messages.map(message => JSON.stringify(message));
}

function messagesOf(framer: JsonObjectFramer, chunks: readonly Buffer[]): unknown[] {
	return chunks.flatMap(chunk => framer.push(chunk)).map(part => JSON.parse(part.toString()) as unknown);
}

const cuts = fc.array(fc.nat(), {maxLength: 20});

test('gives back what was sent, however it is written and wherever it is cut', () => {
	fc.assert(
		fc.property(fc.array(fc.tuple(message, spelling), {maxLength: 5}), cuts, (sent, cuts) => {
			const bytes = Buffer.concat(sent.map(([value, how]) => spell(value, how)));
			const received = messagesOf(new JsonObjectFramer(), pieces(bytes, cuts));
			expect(textsOf(received)).toEqual(textsOf(sent.map(([value]) => value)));
		}),
		{numRuns: 500},
	);
});

test('gives back what was sent when every byte comes alone', () => {
	fc.assert(
		fc.property(fc.array(fc.tuple(message, spelling), {maxLength: 3}), sent => {
			const bytes = Buffer.concat(sent.map(([value, how]) => spell(value, how)));
			const chunks = Array.from(bytes, byte => Buffer.of(byte));
			expect(textsOf(messagesOf(new JsonObjectFramer(), chunks))).toEqual(textsOf(sent.map(([value]) => value)));
		}),
	);
});

test('a message is there with its last byte', () => {
	const framer = new JsonObjectFramer();
	expect(framer.push(Buffer.from('{"a": [{}, "}"]'))).toEqual([]);
	expect(framer.push(Buffer.from('}')).map(String)).toEqual(['{"a": [{}, "}"]}']);
});

test('a chunk may be overwritten once it was pushed', () => {
	const framer = new JsonObjectFramer();
	const chunk = Buffer.from('{"return": {');
	framer.push(chunk);
	chunk.fill('x');
	expect(framer.push(Buffer.from('}}')).map(String)).toEqual(['{"return": {}}']);
});

test.each([
	['in a message', '{"return": ['],
	['in a string', '{"return": "half'],
	['after a backslash', '{"return": "\\'],
	['between messages', ''],
])('0xFF drops what came before it: %s', (_where, stale) => {
	fc.assert(
		fc.property(cuts, cuts => {
			const bytes = Buffer.concat([Buffer.from(stale), Buffer.of(0xff), Buffer.from('{"": 7}\n')]);
			expect(messagesOf(new JsonObjectFramer(), pieces(bytes, cuts))).toEqual([{'': 7}]);
		}),
	);
});

test.each(['SSH-2.0-OpenSSH_9.2\r\n', '[{}]', '"{}"', 'null', '{} x {}', '\u0000{}x', '}'])(
	'refuses what is not JSON objects: %j',
	sent => {
		expect(() => new JsonObjectFramer().push(Buffer.from(sent))).toThrow(QmpProtocolError);
	},
);

test('skips what is between objects where it is told to', () => {
	fc.assert(
		fc.property(cuts, cuts => {
			const bytes = Buffer.from('rest of a line"}]\n{"a": "}"} noise \u0007 ]{"b": 1}');
			const framer = new JsonObjectFramer({between: 'skip'});
			expect(messagesOf(framer, pieces(bytes, cuts))).toEqual([{a: '}'}, {b: 1}]);
		}),
	);
});

test('any bytes give messages or a protocol error', () => {
	const bytes = fc.oneof(
		fc.uint8Array({maxLength: 200}),
		fc
			.array(fc.constantFrom('{', '}', '[', ']', '"', ',', ':', '\\', ' ', '1', '\u00ff'), {maxLength: 200})
			.map(parts => Buffer.from(parts.join(''), 'latin1')),
	);
	fc.assert(
		fc.property(bytes, cuts, fc.constantFrom('reject', 'skip'), (bytes, cuts, between) => {
			const framer = new JsonObjectFramer({between, maxBytes: 100});
			try {
				for (const chunk of pieces(Buffer.from(bytes), cuts)) {
					for (const part of framer.push(chunk)) {
						expect(part.length).toBeLessThanOrEqual(100);
						expect(String.fromCharCode(part[0]!)).toBe('{');
						expect('}]').toContain(String.fromCharCode(part.at(-1)!));
					}
				}
			} catch (error) {
				expect(error).toBeInstanceOf(QmpProtocolError);
			}
		}),
		{numRuns: 500},
	);
});

test('takes a message as deep as QEMU does, and none deeper', () => {
	const nested = (depth: number): Buffer => Buffer.from(`{"a":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)}}`);
	expect(messagesOf(new JsonObjectFramer(), [nested(1024)])).toHaveLength(1);
	expect(() => new JsonObjectFramer().push(nested(1025))).toThrow(/nested deeper than 1024/);
});

test('depth starts over with each message', () => {
	const framer = new JsonObjectFramer();
	expect(framer.push(Buffer.from('{"a":[{}]}'.repeat(2_000)))).toHaveLength(2_000);
});

test.each(['in one chunk', 'in blocks'])('takes a message of 64 MiB and refuses one byte more, %s', how => {
	const bytes = Buffer.alloc(64 * MiB + 1, 'x');
	bytes.write('{"a":"');
	const feed = (length: number): Buffer[] => {
		bytes.write('"}', length - 2);
		const framer = new JsonObjectFramer();
		if (how === 'in one chunk') return framer.push(bytes.subarray(0, length));
		return Array.from({length: Math.ceil(length / MiB)}, (_, index) =>
			framer.push(bytes.subarray(index * MiB, Math.min((index + 1) * MiB, length))),
		).flat();
	};
	expect(feed(64 * MiB).map(part => part.length)).toEqual([64 * MiB]);
	bytes.fill('x', 64 * MiB - 2);
	expect(() => feed(64 * MiB + 1)).toThrow(/longer than 67108864 bytes/);
});

test('an endless message is refused as soon as it is too long', () => {
	const framer = new JsonObjectFramer({maxBytes: 1_000});
	framer.push(Buffer.from('{"a": "'));
	expect(() => {
		for (let pushed = 7; pushed <= 1_100; pushed += 100) framer.push(Buffer.alloc(100, 'x'));
	}).toThrow(/longer than 1000 bytes/);
});

test('single bytes cost no more memory than blocks', () => {
	const bytes = Buffer.from(JSON.stringify({text: 'x'.repeat(4 * MiB)}));
	const framer = new JsonObjectFramer();
	const before = process.memoryUsage().arrayBuffers;
	let most = 0;
	const received: Buffer[] = [];
	for (let index = 0; index < bytes.length; index++) {
		received.push(...framer.push(bytes.subarray(index, index + 1)));
		if (index % 65_536 === 0) most = Math.max(most, process.memoryUsage().arrayBuffers - before);
	}
	expect(received.map(part => part.length)).toEqual([bytes.length]);
	// The buffers it has grown out of may not be collected yet: 4 KiB + 8 KiB + … + 8 MiB.
	expect(most).toBeLessThan(6 * bytes.length);
});
