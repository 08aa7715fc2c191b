import net from 'node:net';
import path from 'node:path';
import fc from 'fast-check';
import {expect, onTestFinished, test} from 'vitest';
import {ByteFeeder, type BytesWanted} from '../../src/nbd/byte-feeder.ts';
import {NbdError} from '../../src/nbd/errors.ts';
import type {NbdExport} from '../../src/nbd/export.ts';
import {InFlight} from '../../src/nbd/in-flight.ts';
import * as messages from '../../src/nbd/messages.ts';
import * as options from '../../src/nbd/options.ts';
import {COMMAND, COMMAND_FLAG, OPTION} from '../../src/nbd/protocol.ts';
import {offer} from '../../src/nbd/server-handshake.ts';
import {serveNbd} from '../../src/nbd/server.ts';
import {transmit} from '../../src/nbd/transmission.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {memoryExport} from './memory-export.ts';
import {RawClient, type Style} from './raw-client.ts';

const SIZE = 256 * 1024;
const LIMITS = {requests: 4, bytes: 128 * 1024};

/** What a client sends that keeps to the protocol. */
function conversation(style: Style): Buffer {
	const {read, write, writeZeroes, trim, flush, blockStatus, disconnect} = COMMAND;
	const named = {exportName: 'disk', queries: ['base:allocation']};
	const request = (command: number, offset: number, length: number, flags = 0) =>
		messages.encodeRequest(style, {command, flags, cookie: BigInt(offset), offset, length});
	const payload = style === 'extended' ? COMMAND_FLAG.payloadLength : 0;
	const structure = {simple: [], structured: [OPTION.structuredReply], extended: [OPTION.extendedHeaders]}[style];
	return Buffer.concat([
		Buffer.from([0, 0, 0, 3]),
		options.encodeOption(OPTION.list),
		...structure.map(option => options.encodeOption(option)),
		options.encodeOption(OPTION.listMetaContext, options.encodeMetaContexts({exportName: 'disk', queries: []})),
		options.encodeOption(OPTION.setMetaContext, options.encodeMetaContexts(named)),
		options.encodeOption(OPTION.info, options.encodeGo({exportName: 'disk', information: [1, 2, 3]})),
		options.encodeOption(OPTION.go, options.encodeGo({exportName: 'disk', information: [3]})),
		request(read, 0, 65_536),
		...[4096, 60_000, 100].flatMap(length => [request(write, length, length, payload), Buffer.alloc(length, 1)]),
		request(blockStatus, 0, SIZE),
		request(writeZeroes, 8192, 8192, COMMAND_FLAG.fastZero),
		request(trim, 0, 4096),
		request(flush, 0, 0),
		request(read, SIZE - 10, 10),
		request(disconnect, 0, 0),
	]);
}

type Mutation = (bytes: Buffer) => Buffer;

const at = fc.nat();
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
	fc.tuple(at, fc.nat({max: 255})).map(([where, value]) => (bytes: Buffer) => {
		const changed = Buffer.from(bytes);
		if (changed.length > 0) changed[where % changed.length]! ^= value;
		return changed;
	}),
	fc.tuple(at, fc.uint8Array({maxLength: 40})).map(([where, more]) => (bytes: Buffer) => {
		const cut = where % (bytes.length + 1);
		return Buffer.concat([bytes.subarray(0, cut), more, bytes.subarray(cut)]);
	}),
	fc.tuple(at, fc.nat({max: 60})).map(([where, length]) => (bytes: Buffer) => {
		const cut = where % (bytes.length + 1);
		return Buffer.concat([bytes.subarray(0, cut), bytes.subarray(cut + length)]);
	}),
	fc.tuple(at, at).map(([where, end]) => (bytes: Buffer) => {
		const cut = where % (bytes.length + 1);
		return Buffer.concat([bytes.subarray(0, cut), bytes.subarray(cut - (end % (cut + 1)))]);
	}),
	at.map(where => (bytes: Buffer) => bytes.subarray(0, where % (bytes.length + 1))),
);

/** Mostly in the heads, where it matters, since data may be anything. */
const mutations = fc.tuple(fc.array(mutation, {minLength: 1, maxLength: 5}), fc.boolean()).map(([all, early]) => {
	return (bytes: Buffer): Buffer => {
		const split = early ? 400 : bytes.length;
		const changed = all.reduce((one, mutate) => mutate(one), bytes.subarray(0, split));
		return Buffer.concat([changed, bytes.subarray(split)]);
	};
});

test('whatever a client sends, the export sees ranges of its own only, and no more memory is taken than there may be', async () => {
	const inRange = (offset: number, length: number): Promise<void> => {
		if (!(offset >= 0 && length > 0 && offset + length <= SIZE)) expect.unreachable(`${length} at ${offset}`);
		return Promise.resolve();
	};
	const shown: NbdExport = {
		...memoryExport(Buffer.alloc(SIZE)),
		blockSizes: {minimum: 1, preferred: 4096, maximum: 65_536},
		read: (offset, into) => inRange(offset, into.length),
		write: (offset, data) => inRange(offset, data.length),
		writeZeroes: inRange,
		trim: inRange,
		blockStatus: async (_context, offset, length) => {
			await inRange(offset, length);
			return [{length, flags: 0}];
		},
	};
	const converse = async (bytes: Buffer, pieceBytes: number): Promise<'over' | 'open'> => {
		const inFlight = new InFlight(LIMITS);
		let state: 'over' | 'open' = 'open';
		function* parser(): BytesWanted<void> {
			const session = yield* offer({exports: new Map([['disk', shown]]), send: () => undefined});
			const send = (_parts: readonly Buffer[], sent: () => void): void => void setImmediate(sent);
			if (session) yield* transmit({session, inFlight, send});
			state = 'over';
		}
		const feeder = new ByteFeeder(parser());
		try {
			for (let sent = 0; sent < bytes.length; sent += pieceBytes) {
				let held = feeder.push(bytes.subarray(sent, sent + pieceBytes));
				while (held) {
					await held.until;
					held = feeder.push(held.rest);
				}
				expect(inFlight.bytesHeld).toBeLessThanOrEqual(LIMITS.bytes);
			}
		} catch (error) {
			expect(error).toBeInstanceOf(NbdError);
			state = 'over';
		} finally {
			feeder.end();
		}
		await inFlight.idle();
		expect(inFlight.bytesHeld).toBeLessThanOrEqual(LIMITS.bytes);
		return state;
	};
	const styles: Style[] = ['simple', 'structured', 'extended'];
	for (const style of styles) expect(await converse(conversation(style), 1000)).toBe('over');
	await fc.assert(
		fc.asyncProperty(
			fc.constantFrom(...styles),
			mutations,
			fc.integer({min: 200, max: 70_000}),
			async (style, mutate, size) => {
				await converse(mutate(conversation(style)), size);
			},
		),
		{numRuns: 3000},
	);
});

test('while many clients misbehave on their sockets, a good one is served', async () => {
	const socket = path.join(temporaryFolder(), 'nbd.sock');
	const server = await serveNbd({unix: socket}, new Map([['disk', memoryExport(Buffer.alloc(SIZE))]]), {
		limits: LIMITS,
	});
	onTestFinished(() => server.close());
	const good = await RawClient.open(socket, 'extended', 'disk');
	const bad = fc.sample(fc.tuple(fc.constantFrom<Style>('simple', 'structured', 'extended'), mutations), {
		numRuns: 150,
		seed: 1,
	});
	for (const [style, mutate] of bad) {
		const client = net.connect(socket);
		client.on('error', () => undefined);
		client.resume().end(mutate(conversation(style)));
		await new Promise(resolve => client.once('close', resolve));
		good.send({command: COMMAND.read, length: 512});
		expect((await good.reply()).errno).toBe(0);
		expect(server.bytesHeld).toBeLessThanOrEqual(2 * LIMITS.bytes);
	}
});
