import net from 'node:net';
import path from 'node:path';
import {expect, onTestFinished, test, vi} from 'vitest';
import {NbdClient} from '../../src/nbd/client.ts';
import {NbdError, NbdRequestError} from '../../src/nbd/errors.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import * as fake from './fake-server.ts';
import {exportImage} from './storage-export.ts';

const SIZE = 1024 * 1024;
const CONTEXTS = ['base:allocation', 'qemu:allocation-depth'];
const data = (length: number): Buffer => Buffer.alloc(length, 7);

/** What passed between a client and a real server: what the server sent, and after how many bytes of the client's. */
type Recording = readonly {readonly after: number; readonly bytes: Buffer}[];

async function talk(socketPath: string): Promise<void> {
	const client = await NbdClient.connect({unix: socketPath}, 'disk', {metaContexts: CONTEXTS});
	try {
		await client.read(65_536 - 64, 128);
		await client.blockStatus(0, client.sizeBytes);
		await client.read(0, 64);
	} finally {
		await client.close();
	}
}

async function record(socketPath: string): Promise<Recording> {
	const recording: {after: number; bytes: Buffer}[] = [];
	const proxyPath = path.join(temporaryFolder(), 'proxy.sock');
	const proxy = net.createServer(near => {
		const far = net.connect(socketPath);
		let after = 0;
		near.on('data', part => {
			after += part.length;
			far.write(part);
		});
		far.on('data', part => {
			recording.push({after, bytes: part});
			near.write(part);
		});
		near.on('close', () => far.destroy());
		far.on('close', () => near.destroy());
	});
	await new Promise<void>(resolve => proxy.listen(proxyPath, resolve));
	onTestFinished(() => void proxy.close());
	await talk(proxyPath);
	return recording;
}

/** Plays a recording with one of its bytes changed, or up to a byte, and closes after the part in which that is. */
function replay(recording: Recording, at: number, change: 'cut' | number): Promise<string> {
	return fake.listen(accepted => {
		const parts = [...recording];
		let sent = 0;
		const play = (socket: net.Socket, received: number): void => {
			for (let next = parts[0]; next && next.after <= received; next = parts[0]) {
				parts.shift();
				const bytes = Buffer.from(next.bytes);
				const here = at - sent;
				sent += bytes.length;
				if (here >= bytes.length) {
					socket.write(bytes);
					continue;
				}
				if (change !== 'cut') bytes[here] = (bytes[here] ?? 0) ^ change;
				socket.end(change === 'cut' ? bytes.subarray(0, here) : bytes);
				parts.length = 0;
			}
		};
		play(accepted, 0);
		return {
			greet: Buffer.alloc(0),
			behave: (socket, bytes) => {
				play(socket, bytes.length);
			},
		};
	});
}

/** Fails if `promise` hangs. */
async function outcome(promise: Promise<unknown>): Promise<unknown> {
	let timer: NodeJS.Timeout | undefined;
	const late = new Promise(resolve => {
		timer = setTimeout(resolve, 5_000, new Error('it hangs'));
	});
	const end = await Promise.race([
		promise.then(
			() => 'well',
			(error: unknown) => error,
		),
		late,
	]);
	clearTimeout(timer);
	return end;
}

test('a conversation that is cut at any byte, or wrong in any bit, fails, and never hangs', async () => {
	const recording = await record(exportImage());
	const length = recording.reduce((sum, {bytes}) => sum + bytes.length, 0);
	const lastPart = length - (recording.at(-1)?.bytes.length ?? 0);
	await talk(await replay(recording, length, 'cut'));
	for (let at = 0; at < length; at++) {
		expect(await outcome(talk(await replay(recording, at, 'cut'))), `cut at ${at}`).toBeInstanceOf(NbdError);
		for (const bit of [1, 0x80]) {
			const end = await outcome(talk(await replay(recording, at, bit)));
			// In the last part it may be the data itself that is changed.
			if (!(end === 'well' && at >= lastPart)) expect(end, `bit ${bit} of ${at}`).toBeInstanceOf(NbdError);
		}
	}
});

const reads: [string, (cookie: bigint) => Buffer, RegExp][] = [
	['a magic number of none', cookie => Buffer.concat([Buffer.alloc(4), fake.numbers([cookie, 12])]), /no reply/],
	['an unknown cookie', cookie => fake.dataChunk(cookie + 1n, fake.LAST, 0, data(100)), /does not wait/],
	['too much data', cookie => fake.dataChunk(cookie, fake.LAST, 0, data(101)), /not asked for/],
	['a hole beyond the range', cookie => fake.holeChunk(cookie, fake.LAST, 50, 51), /not asked for/],
	['data before the range', cookie => fake.dataChunk(cookie, fake.LAST, 2n ** 53n - 1n, data(1)), /not asked for/],
	['an offset beyond 2^53', cookie => fake.dataChunk(cookie, fake.LAST, 2n ** 53n, data(1)), /2\^53/],
	['no data', cookie => fake.encodeChunk(cookie, 0, fake.LAST, Buffer.alloc(0)), /not send all/],
	['a part of the data', cookie => fake.dataChunk(cookie, fake.LAST, 0, data(99)), /not send all/],
	[
		'a part of the data twice',
		cookie => Buffer.concat([fake.dataChunk(cookie, 0, 0, data(50)), fake.dataChunk(cookie, fake.LAST, 0, data(50))]),
		/twice/,
	],
	[
		'overlapping parts',
		cookie => Buffer.concat([fake.dataChunk(cookie, 0, 40, data(60)), fake.dataChunk(cookie, fake.LAST, 0, data(41))]),
		/not asked for/,
	],
	['an empty hole', cookie => fake.holeChunk(cookie, 0, 0, 0), /not asked for/],
	['an empty chunk that is not the last', cookie => fake.encodeChunk(cookie, 0, 0, Buffer.alloc(0)), /empty chunk/],
	['a status', cookie => fake.statusChunk(cookie, fake.LAST, 0, [[100, 0]]), /answers a read with chunk 5/],
	['a simple reply without data', cookie => fake.encodeSimpleReply(cookie, 0), /without an answer/],
	[
		'a chunk of 4 GiB',
		cookie => fake.numbers([0x668e33ef, 4], [1, 2], [1, 2], [cookie, 8], [0xffffffff, 4], [0, 8]),
		/not asked for/,
	],
	[
		'an error of 4 GiB',
		cookie => fake.numbers([0x668e33ef, 4], [1, 2], [0x8001, 2], [cookie, 8], [0xffffffff, 4]),
		/tells an error in/,
	],
	[
		'errors without end',
		cookie => Buffer.concat(Array.from({length: 100}, () => fake.errorChunk(cookie, 0, 5))),
		/too many errors/,
	],
	[
		'words longer than their chunk',
		cookie => fake.encodeChunk(cookie, 0x8001, 1, fake.numbers([5, 4], [9, 2])),
		/badly/,
	],
];

test.each(reads)('a read that is answered with %s fails, with all that waits', async (_what, answer, message) => {
	const socketPath = await fake.serve(SIZE, ({cookie}) => (cookie === 1n ? Buffer.alloc(0) : answer(cookie)));
	const client = await NbdClient.connect({unix: socketPath}, 'disk');
	const [waiting, read] = await Promise.all([outcome(client.read(0, 10)), outcome(client.read(0, 100))]);
	expect(read).toBeInstanceOf(NbdError);
	expect(String(read)).toMatch(message);
	expect(waiting).toBe(read);
	await expect(client.read(0, 1)).rejects.toBe(read);
	await client.close();
});

const statuses: [string, (cookie: bigint) => Buffer, RegExp][] = [
	['no status', cookie => fake.encodeChunk(cookie, 0, fake.LAST, Buffer.alloc(0)), /in every context/],
	['one context only', cookie => fake.statusChunk(cookie, fake.LAST, 0, [[100, 0]]), /in every context/],
	[
		'one context twice',
		cookie =>
			Buffer.concat([fake.statusChunk(cookie, 0, 0, [[100, 0]]), fake.statusChunk(cookie, fake.LAST, 0, [[100, 0]])]),
		/not asked for/,
	],
	['an unknown context', cookie => fake.statusChunk(cookie, 0, 2, [[100, 0]]), /not asked for/],
	['no extents', cookie => fake.statusChunk(cookie, 0, 0, []), /in 4 bytes/],
	['an extent of no length', cookie => fake.statusChunk(cookie, 0, 0, [[0, 0]]), /not asked for/],
	[
		'an extent beyond the range',
		cookie =>
			fake.statusChunk(cookie, 0, 0, [
				[100, 0],
				[1, 0],
			]),
		/not asked for/,
	],
	['data', cookie => fake.dataChunk(cookie, 0, 0, data(100)), /status with chunk 1/],
	['half an extent', cookie => fake.encodeChunk(cookie, 5, 0, Buffer.alloc(16)), /in 16 bytes/],
	[
		'a status of 2 GiB',
		cookie => fake.numbers([0x668e33ef, 4], [1, 2], [5, 2], [cookie, 8], [0x8000_0004, 4]),
		/in 2147483652 bytes/,
	],
];

test.each(statuses)('a request for status that is answered with %s fails', async (_what, answer, message) => {
	const socketPath = await fake.serve(SIZE, ({cookie}) => answer(cookie));
	const client = await NbdClient.connect({unix: socketPath}, 'disk', {metaContexts: CONTEXTS});
	const end = await outcome(client.blockStatus(0, 100));
	expect(end).toBeInstanceOf(NbdError);
	expect(String(end)).toMatch(message);
	await client.close();
});

const UNEXTENDED = fake.encodeOptionReply(11, fake.UNSUPPORTED);

const handshakes: [string, Buffer[], RegExp][] = [
	['another protocol', [Buffer.from('SSH-2.0-OpenSSH_9.2p1\r\n')], /no NBD server/],
	['an old server', [fake.numbers([0x4e42444d41474943n, 8], [0x0000420281861253n, 8], [0, 2])], /no NBD server/],
	['one that does not negotiate', [Buffer.from('NBDMAGICIHAVEOPT'), fake.numbers([2, 2])], /not negotiate/],
	[
		'one without structured replies',
		[fake.encodeGreeting(), UNEXTENDED, fake.encodeOptionReply(8, fake.UNSUPPORTED)],
		/refuses: error 1/,
	],
	['one that answers something else', [fake.encodeGreeting(), fake.encodeOptionReply(7, 1)], /not sent/],
	['one that is out of step', [fake.encodeGreeting(), Buffer.alloc(20)], /out of order/],
	['one that talks without end', [fake.encodeGreeting(), fake.encodeOptionReply(11, 3)], /too much/],
	['one that refuses for another reason', [fake.encodeGreeting(), fake.encodeOptionReply(11, 0x80000003)], /error 3/],
	[
		'one that answers with 4 GiB',
		[fake.encodeGreeting(), fake.encodeOptionReply(11, 1).subarray(0, 16), fake.numbers([0xffffffff, 4])],
		/4294967295 bytes/,
	],
	[
		'one with another context',
		[
			fake.encodeGreeting(),
			UNEXTENDED,
			fake.encodeOptionReply(8, 1),
			fake.encodeOptionReply(10, 4, Buffer.from('\0\0\0\0other:one')),
			fake.encodeOptionReply(10, 1),
		],
		/not asked for/,
	],
	[
		'one without the context',
		[fake.encodeGreeting(), UNEXTENDED, fake.encodeOptionReply(8, 1), fake.encodeOptionReply(10, 1)],
		/has no context base:allocation/,
	],
	[
		'one without the export',
		[
			fake.encodeGreeting(),
			UNEXTENDED,
			fake.encodeOptionReply(8, 1),
			fake.encodeOptionReply(10, 0x80000006, Buffer.from('no such')),
		],
		/refuses: no such$/,
	],
];

test.each(handshakes)('%s is refused', async (_what, parts, message) => {
	const socketPath = await fake.listen(() => ({greet: Buffer.concat(parts), behave: () => undefined}));
	const end = await outcome(NbdClient.connect({unix: socketPath}, 'disk', {metaContexts: ['base:allocation']}));
	expect(end).toBeInstanceOf(NbdError);
	expect(String(end)).toMatch(message);
});

test('a handshake that does not come within 10 s fails', async () => {
	vi.useFakeTimers({toFake: ['setTimeout', 'clearTimeout']});
	onTestFinished(() => {
		vi.useRealTimers();
	});
	const connected = Promise.withResolvers<undefined>();
	const socketPath = await fake.listen(() => {
		connected.resolve(undefined);
		return {greet: Buffer.from('NBDMAGIC'), behave: () => undefined};
	});
	const opening = NbdClient.connect({unix: socketPath}, 'disk');
	opening.catch(() => undefined);
	await connected.promise;
	vi.advanceTimersByTime(9_999);
	await expect(Promise.race([opening, Promise.resolve('it waits')])).resolves.toBe('it waits');
	vi.advanceTimersByTime(1);
	await expect(opening).rejects.toThrow(/^NBD export disk on .*: the server did not open it within 10 s$/);
});

test('where no server is, it is said', async () => {
	const folder = temporaryFolder();
	const missing = path.join(folder, 'no.sock');
	await expect(NbdClient.connect({unix: missing}, 'disk')).rejects.toThrow(
		/^NBD export disk on .*: the socket does not exist$/,
	);
	await expect(NbdClient.connect({unix: folder}, 'disk')).rejects.toBeInstanceOf(NbdError);
});

test('an error of one request leaves the others and the connection alone', async () => {
	const answer = ({cookie, offset}: fake.SeenRequest): Buffer => {
		if (offset === 0n) return fake.errorChunk(cookie, fake.LAST, 5, 'bad sector');
		if (offset === 1n) return fake.encodeSimpleReply(cookie, 5);
		// Some of the data may have come before.
		if (offset === 2n)
			return Buffer.concat([fake.dataChunk(cookie, 0, 2, data(1)), fake.errorChunk(cookie, fake.LAST, 5)]);
		return fake.dataChunk(cookie, fake.LAST, offset, data(10));
	};
	const client = await NbdClient.connect({unix: await fake.serve(SIZE, answer)}, 'disk');
	const all = await Promise.all([0, 1, 2, 3].map(offset => outcome(client.read(offset, 10))));
	expect(all.slice(0, 3).every(end => end instanceof NbdRequestError && end.errno === 5)).toBe(true);
	expect(String(all[0])).toMatch(/cannot read 10 bytes at 0: bad sector$/);
	expect(String(all[1])).toMatch(/cannot read 10 bytes at 1: i\/o error$/);
	expect(all[3]).toBe('well');
	await client.close();
});

test('aborting ends the connection, and all that waits rejects with the reason; no listener stays', async () => {
	const socketPath = await fake.serve(SIZE, () => Buffer.alloc(0));
	const reason = new Error('enough');
	const early = new AbortController();
	early.abort(reason);
	await expect(NbdClient.connect({unix: socketPath}, 'disk', {signal: early.signal})).rejects.toBe(reason);

	const controller = new AbortController();
	const removed = vi.spyOn(controller.signal, 'removeEventListener');
	const client = await NbdClient.connect({unix: socketPath}, 'disk', {signal: controller.signal});
	const waiting = [client.read(0, 10), client.read(0, 10)].map(outcome);
	controller.abort(reason);
	expect(await Promise.all(waiting)).toEqual([reason, reason]);
	await client.close();
	expect(removed).toHaveBeenCalled();
});

test('closing fails what waits, and does not wait for a server that does not let go', async () => {
	const socketPath = await fake.serve(SIZE, () => Buffer.alloc(0));
	const client = await NbdClient.connect({unix: socketPath}, 'disk');
	const waiting = outcome(client.read(0, 10));
	await client.close();
	expect(String(await waiting)).toMatch(/the connection is closed$/);
	await expect(client.read(0, 10)).rejects.toBeInstanceOf(NbdError);
	await client.close();
});

test('what cannot be asked for is a mistake of the caller', async () => {
	const client = await NbdClient.connect({unix: await fake.serve(SIZE, () => Buffer.alloc(0))}, 'disk');
	for (const [offset, length] of [
		[0, 0],
		[-1, 1],
		[SIZE, 1],
		[0, SIZE + 1],
		[Number.NaN, 1],
		[0, Number.NaN],
	] as const) {
		await expect(client.read(offset, length), `${offset}, ${length}`).rejects.toBeInstanceOf(RangeError);
	}
	await expect(client.read(0, 10, Buffer.alloc(9))).rejects.toBeInstanceOf(RangeError);
	await expect(client.blockStatus(0, 10)).rejects.toBeInstanceOf(RangeError);
	await client.close();
});
