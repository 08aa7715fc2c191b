import path from 'node:path';
import {setImmediate} from 'node:timers/promises';
import {describe, expect, onTestFinished, test} from 'vitest';
import type {NbdExport} from '../../src/nbd/export.ts';
import * as options from '../../src/nbd/options.ts';
import {COMMAND, COMMAND_FLAG, OPTION} from '../../src/nbd/protocol.ts';
import {type NbdServerOptions, serveNbd} from '../../src/nbd/server.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {memoryExport, sampleContent} from './memory-export.ts';
import {RawClient, type Style} from './raw-client.ts';

const MIB = 1024 * 1024;
const SIZE = MIB + 512;
const STYLES: Style[] = ['simple', 'structured', 'extended'];

async function serve(exports: Record<string, NbdExport>, more: NbdServerOptions = {}) {
	const socket = path.join(temporaryFolder(), 'nbd.sock');
	const reports: string[] = [];
	const report = (error: Error): void => void reports.push(error.message);
	const server = await serveNbd({unix: socket}, new Map(Object.entries(exports)), {report, ...more});
	onTestFinished(() => server.close());
	return {server, socket, reports};
}

describe.each(STYLES)('with %s replies', style => {
	const payload = (length: number) => ({
		length,
		flags: style === 'extended' ? COMMAND_FLAG.payloadLength : 0,
		command: COMMAND.write,
	});

	test('what is written is read back, whatever the order of the answers', async () => {
		const content = sampleContent(SIZE);
		const {socket} = await serve({disk: memoryExport(content)});
		const client = await RawClient.open(socket, style, 'disk');
		for (let index = 0; index < 30; index++) {
			client.send({...payload(777), cookie: BigInt(index), offset: index * 1000}, Buffer.alloc(777, index));
		}
		const seen = new Set<bigint>();
		for (let index = 0; index < 30; index++) {
			const {cookie, errno} = await client.reply();
			expect(errno).toBe(0);
			seen.add(cookie);
		}
		expect(seen.size).toBe(30);
		client.send({command: COMMAND.read, cookie: 0xffff_ffff_ffff_ffffn, offset: 29_000, length: 1500});
		const {cookie, data} = await client.reply(1500);
		expect(cookie).toBe(0xffff_ffff_ffff_ffffn);
		expect(data.equals(content.subarray(29_000, 30_500))).toBe(true);
		expect(data.subarray(0, 777).equals(Buffer.alloc(777, 29))).toBe(true);
	});

	test('requests that cannot be carried out are answered with an error, and their data skipped', async () => {
		const touched: string[] = [];
		const touch = (what: string) => (): Promise<void> => {
			touched.push(what);
			return Promise.resolve();
		};
		const blockSizes = {minimum: 512, preferred: 4096, maximum: 65_536};
		const all = {read: touch('read'), write: touch('write'), writeZeroes: touch('zeroes'), trim: touch('trim')};
		const {socket, reports} = await serve({
			disk: memoryExport(Buffer.alloc(SIZE), {...all, blockSizes}),
			plain: {sizeBytes: SIZE, read: touch('read')},
		});
		const {read, write, writeZeroes, trim, flush, cache, blockStatus} = COMMAND;
		const {fua, noHole, dontFragment, oneExtent, fastZero} = COMMAND_FLAG;
		const [EPERM, EINVAL, ENOSPC] = [1, 22, 28];
		const cases: [string, {command: number; flags?: number; offset?: number; length?: number}, number][] = [
			['plain', {command: write, length: 512}, EPERM],
			['plain', {command: write, length: 2 * MIB}, EPERM],
			['plain', {command: writeZeroes, length: 512}, EPERM],
			['plain', {command: trim, length: 512}, EPERM],
			['plain', {command: flush}, EINVAL],
			['plain', {command: cache, length: 512}, EINVAL],
			['plain', {command: blockStatus, length: 512}, EINVAL],
			['plain', {command: read, flags: fua, length: 512}, EINVAL],
			['plain', {command: read, offset: 2 ** 60, length: 512}, EINVAL],
			['plain', {command: read, length: 33 * MIB}, EINVAL],
			['disk', {command: 99, length: 512}, EINVAL],
			['disk', {command: 8, length: 512}, EINVAL],
			['disk', {command: read, length: 0}, EINVAL],
			['disk', {command: read, length: 511}, EINVAL],
			['disk', {command: read, offset: 1, length: 512}, EINVAL],
			['disk', {command: read, offset: SIZE, length: 512}, EINVAL],
			['disk', {command: read, length: 65_536 + 512}, EINVAL],
			['disk', {command: read, flags: noHole, length: 512}, EINVAL],
			['disk', {command: read, flags: 0x8000, length: 512}, EINVAL],
			['disk', {command: write, length: 65_536 + 512}, EINVAL],
			['disk', {command: write, length: 33 * MIB}, ENOSPC],
			['disk', {command: write, offset: SIZE - 512, length: 1024}, ENOSPC],
			['disk', {command: write, flags: dontFragment, length: 512}, EINVAL],
			['disk', {command: writeZeroes, offset: SIZE, length: 512}, ENOSPC],
			['disk', {command: writeZeroes, flags: oneExtent, length: 512}, EINVAL],
			['disk', {command: trim, flags: fastZero, length: 512}, EINVAL],
			['disk', {command: trim, offset: 0xffff_ffff_ffff_f000, length: 512}, ENOSPC],
			['disk', {command: flush, length: 512}, EINVAL],
		];
		for (const name of ['plain', 'disk']) {
			const client = await RawClient.open(socket, style, name);
			const mine = cases.filter(([shown]) => shown === name);
			for (const [index, [, request, errno]] of mine.entries()) {
				const data = Buffer.alloc(request.command === write ? (request.length ?? 0) : 0);
				const extra = style === 'extended' && request.command === write ? COMMAND_FLAG.payloadLength : 0;
				client.send({...request, flags: (request.flags ?? 0) | extra, cookie: BigInt(index)}, data);
				const answer = await client.reply();
				expect({...answer, data: undefined}, JSON.stringify(request)).toEqual({cookie: BigInt(index), errno});
			}
			expect(touched).toEqual([]);
			client.send({command: read, length: 512});
			expect((await client.reply(512)).errno).toBe(0);
			expect(touched.splice(0)).toEqual(['read']);
		}
		expect(reports).toEqual([]);
	});

	test('a client gets all its answers before it is let go, and no more is read from it', async () => {
		const {socket, reports} = await serve({disk: memoryExport(Buffer.alloc(SIZE))});
		const client = await RawClient.open(socket, style, 'disk');
		for (let index = 0; index < 10; index++) client.send({command: COMMAND.trim, length: 1, cookie: BigInt(index)});
		client.send({command: COMMAND.disconnect});
		client.socket.write(Buffer.alloc(100_000, 0x55));
		for (let index = 0; index < 10; index++) expect((await client.reply()).errno).toBe(0);
		await expect(client.read(1)).rejects.toThrow();
		await client.ended;
		expect(reports).toEqual([]);
	});

	test('what has to be durable is flushed before it is acknowledged', async () => {
		const order: string[] = [];
		const note = (what: string) => async (): Promise<void> => {
			await setImmediate();
			order.push(what);
		};
		const {socket} = await serve({
			disk: memoryExport(Buffer.alloc(SIZE), {write: note('write'), writeZeroes: note('zeroes'), flush: note('flush')}),
		});
		const client = await RawClient.open(socket, style, 'disk');
		const {flags, length} = payload(512);
		client.send({command: COMMAND.write, flags: flags | COMMAND_FLAG.fua, length}, Buffer.alloc(length));
		await client.reply();
		expect(order.splice(0)).toEqual(['write', 'flush']);
		client.send({command: COMMAND.writeZeroes, flags: COMMAND_FLAG.fua, length: 512});
		await client.reply();
		expect(order.splice(0)).toEqual(['zeroes', 'flush']);
		client.send({command: COMMAND.writeZeroes, length: 512});
		await client.reply();
		client.send({command: COMMAND.flush});
		await client.reply();
		expect(order).toEqual(['zeroes', 'flush']);
	});

	test('no more is taken from a client than what may be under way', async () => {
		const limits = {requests: 6, bytes: 4 * MIB};
		let underWay = 0;
		let most = 0;
		let held = 0;
		let go = Promise.withResolvers<undefined>();
		const {server, socket} = await serve(
			{
				disk: memoryExport(Buffer.alloc(0), {
					sizeBytes: 64 * MIB,
					write: async () => {
						most = Math.max(most, ++underWay);
						held = Math.max(held, server.bytesHeld);
						// All that fit have to come before any may end.
						if (underWay === 4) {
							go.resolve(undefined);
							go = Promise.withResolvers();
						} else {
							await go.promise;
						}
						underWay--;
					},
				}),
			},
			{limits},
		);
		const client = await RawClient.open(socket, style, 'disk');
		for (let index = 0; index < 40; index++) client.send(payload(MIB), Buffer.alloc(MIB));
		for (let index = 0; index < 40; index++) expect((await client.reply()).errno).toBe(0);
		expect(most).toBe(4);
		expect(held).toBeLessThanOrEqual(limits.bytes);
	});
});

test('extended writes have data whether a flag says so or not, and nothing else may have any', async () => {
	const content = Buffer.alloc(SIZE);
	const {socket} = await serve({disk: memoryExport(content)});
	const client = await RawClient.open(socket, 'extended', 'disk');
	client.send({command: COMMAND.write, length: 512}, Buffer.alloc(512, 4));
	expect((await client.reply()).errno).toBe(0);
	expect(content.subarray(0, 512).equals(Buffer.alloc(512, 4))).toBe(true);
	for (const command of [COMMAND.read, COMMAND.blockStatus, 99]) {
		client.send({command, flags: COMMAND_FLAG.payloadLength, length: 512}, Buffer.alloc(512));
		expect((await client.reply()).errno).toBe(22);
	}
});

test('a client that does not read its answers is not read from either', async () => {
	const limits = {requests: 128, bytes: 4 * MIB};
	let begun = 0;
	const read = (): Promise<void> => {
		begun++;
		return Promise.resolve();
	};
	const {server, socket} = await serve({disk: {sizeBytes: 64 * MIB, read}}, {limits});
	const client = await RawClient.open(socket, 'structured', 'disk');
	for (let index = 0; index < 64; index++) client.send({command: COMMAND.read, offset: index * MIB, length: MIB});
	// What another client is answered comes after what this one could have been.
	const other = await RawClient.open(socket, 'structured', 'disk');
	for (let index = 0; index < 20; index++) {
		other.send({command: COMMAND.read, length: 512});
		await other.reply();
	}
	// At most what is held, and what the socket has room for.
	expect(begun - 20).toBeLessThan(8);
	expect(server.bytesHeld).toBeLessThanOrEqual(2 * limits.bytes);
	for (let index = 0; index < 64; index++) expect((await client.reply()).data.length).toBe(MIB);
});

test('status is told in each context that was chosen, as far as there is room, and once only if so asked', async () => {
	const content = Buffer.alloc(64 * MIB);
	for (let at = 0; at < content.length; at += 8192) content[at] = 1;
	const {socket} = await serve({disk: memoryExport(content)});
	const client = await RawClient.open(socket, 'structured', 'disk', ['base:allocation']);
	client.send({command: COMMAND.blockStatus, length: content.length});
	const {data} = await client.reply();
	expect(data.length).toBe(4 + 8 * 4000);
	client.send({command: COMMAND.blockStatus, flags: COMMAND_FLAG.oneExtent, length: content.length});
	expect((await client.reply()).data.length).toBe(4 + 8);
});

test('zeroes are asked for as they are wanted; those that would not be fast may be refused', async () => {
	const asked: unknown[] = [];
	const {socket} = await serve({
		disk: memoryExport(Buffer.alloc(SIZE), {
			writeZeroes: (_offset, _length, how) => {
				asked.push(how);
				return how.speed === 'fast' || how.space === 'keep'
					? Promise.reject(Object.assign(new Error('slow'), {code: 'ENOTSUP'}))
					: Promise.resolve();
			},
		}),
	});
	const client = await RawClient.open(socket, 'structured', 'disk');
	const zeroes = async (flags: number): Promise<number> => {
		client.send({command: COMMAND.writeZeroes, flags, length: 512});
		return (await client.reply()).errno;
	};
	expect(await zeroes(0)).toBe(0);
	expect(await zeroes(COMMAND_FLAG.fastZero)).toBe(95);
	// Nobody else may be told so.
	expect(await zeroes(COMMAND_FLAG.noHole)).toBe(22);
	expect(asked).toEqual([
		{space: 'release', speed: 'any'},
		{space: 'release', speed: 'fast'},
		{space: 'keep', speed: 'any'},
	]);
});

test('the oldest way to choose an export works, with padding', async () => {
	const content = sampleContent(SIZE);
	const {socket, reports} = await serve({disk: memoryExport(content)});
	for (const flags of [1, 3]) {
		const client = await RawClient.connect(socket, flags);
		client.socket.write(options.encodeOption(OPTION.exportName, Buffer.from('disk')));
		const answer = await client.read(flags === 1 ? 134 : 10);
		expect(answer.readBigUInt64BE(0)).toBe(BigInt(SIZE));
		client.send({command: COMMAND.read, offset: 512, length: 1000});
		expect((await client.reply(1000)).data.equals(content.subarray(512, 1512))).toBe(true);
	}
	const client = await RawClient.connect(socket);
	client.socket.resume().write(options.encodeOption(OPTION.exportName, Buffer.from('other')));
	await client.ended;
	expect(reports).toEqual([expect.stringMatching(/cannot have/)]);
});

test('options are answered as the protocol has it', async () => {
	const {socket} = await serve({
		disk: memoryExport(Buffer.alloc(SIZE), {
			contexts: ['base:allocation', 'qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:b'],
		}),
		other: memoryExport(Buffer.alloc(SIZE)),
	});
	const client = await RawClient.connect(socket);
	const types = async (option: number, data?: Buffer) => (await client.option(option, data)).map(({type}) => type);
	const names = async (option: number, exportName: string, ...queries: string[]) =>
		(await client.option(option, options.encodeMetaContexts({exportName, queries})))
			.filter(({type}) => type === 4)
			.map(({data}) => `${data.readUInt32BE(0)} ${data.toString('utf8', 4)}`);
	const error = (number: number) => [0x8000_0000 + number];

	expect(await types(OPTION.startTls)).toEqual(error(1));
	expect(await types(4)).toEqual(error(1));
	expect(await types(99, Buffer.alloc(60_000))).toEqual(error(1));
	expect(await types(OPTION.list)).toEqual([2, 2, 1]);
	expect(await types(OPTION.list, Buffer.alloc(1))).toEqual(error(3));
	expect(await types(OPTION.setMetaContext, options.encodeMetaContexts({exportName: 'disk', queries: []}))).toEqual(
		error(3),
	);
	expect(await types(OPTION.structuredReply, Buffer.alloc(1))).toEqual(error(3));
	expect(await types(OPTION.structuredReply)).toEqual([1]);
	expect(await types(OPTION.structuredReply)).toEqual(error(3));
	expect(await types(OPTION.listMetaContext, Buffer.alloc(3))).toEqual(error(3));
	expect(await types(OPTION.listMetaContext, options.encodeMetaContexts({exportName: 'none', queries: []}))).toEqual(
		error(6),
	);
	expect(await names(OPTION.listMetaContext, 'disk')).toEqual([
		'0 base:allocation',
		'0 qemu:dirty-bitmap:a',
		'0 qemu:dirty-bitmap:b',
	]);
	expect(await names(OPTION.listMetaContext, 'disk', 'qemu:')).toEqual([
		'0 qemu:dirty-bitmap:a',
		'0 qemu:dirty-bitmap:b',
	]);
	expect(await names(OPTION.listMetaContext, 'disk', 'x:', 'base:allocation')).toEqual(['0 base:allocation']);
	expect(await names(OPTION.setMetaContext, 'disk')).toEqual([]);
	expect(await names(OPTION.setMetaContext, 'disk', 'base:', 'qemu:dirty-bitmap:b', 'x:y')).toEqual([
		'1 qemu:dirty-bitmap:b',
	]);
	expect(await types(OPTION.info, options.encodeGo({exportName: 'none', information: []}))).toEqual(error(6));
	expect(await types(OPTION.info, options.encodeGo({exportName: 'disk', information: [1, 2, 3, 9]}))).toEqual([
		3, 3, 3, 1,
	]);
	expect(await types(OPTION.info, Buffer.alloc(5))).toEqual(error(3));
	expect(await types(OPTION.extendedHeaders)).toEqual([1]);
	expect(await types(OPTION.structuredReply)).toEqual(error(10));
	// The contexts were those of another export.
	expect(await types(OPTION.go, options.encodeGo({exportName: 'other', information: []}))).toEqual([3, 1]);
	client.style = 'extended';
	client.send({command: COMMAND.blockStatus, length: 512});
	expect((await client.reply()).errno).toBe(22);

	const leaving = await RawClient.connect(socket);
	expect((await leaving.option(OPTION.abort, Buffer.from('bye'))).map(({type}) => type)).toEqual([1]);
	leaving.socket.resume();
	await leaving.ended;
});

test('a client that means no good in the handshake is cut off, and nobody else', async () => {
	const {socket, reports} = await serve({disk: memoryExport(Buffer.alloc(SIZE))}, {maxConnections: 3});
	const good = await RawClient.open(socket, 'structured', 'disk');
	const cutOff = async (misbehave: (client: RawClient) => void, flags?: number): Promise<void> => {
		const client = await RawClient.connect(socket, flags);
		client.socket.resume();
		misbehave(client);
		await client.ended;
	};
	await cutOff(() => undefined, 0);
	await cutOff(() => undefined, 7);
	await cutOff(({socket}) => socket.write('GET / HTTP/1.1\r\n\r\n'));
	const long = options.encodeOption(OPTION.list, Buffer.alloc(65_537));
	await cutOff(({socket}) => socket.write(long.subarray(0, 16)));
	await cutOff(({socket}) => socket.write(Buffer.concat(Array.from({length: 1025}, () => options.encodeOption(99)))));
	await cutOff(({socket}) => socket.end());
	expect(reports).toEqual([
		expect.stringMatching(/does not negotiate/),
		expect.stringMatching(/does not negotiate/),
		expect.stringMatching(/no option/),
		expect.stringMatching(/option of 65537 bytes/),
		expect.stringMatching(/more than 1024 options/),
		expect.stringMatching(/went away/),
	]);
	good.send({command: COMMAND.read, length: 512});
	expect((await good.reply()).errno).toBe(0);
});

test('a client that chooses nothing in time is cut off', async () => {
	const {socket, reports} = await serve({disk: memoryExport(Buffer.alloc(SIZE))}, {handshakeMs: 50});
	const slow = await RawClient.connect(socket);
	slow.socket.resume();
	await slow.ended;
	expect(reports).toEqual([expect.stringMatching(/did not choose an export within 0.05 s/)]);
});

test('more clients than allowed are turned away, until one leaves', async () => {
	const {socket, server} = await serve({disk: memoryExport(Buffer.alloc(SIZE))}, {maxConnections: 1});
	const first = await RawClient.open(socket, 'structured', 'disk');
	await expect(RawClient.connect(socket)).rejects.toThrow(/ended/);
	first.send({command: COMMAND.disconnect});
	first.socket.resume();
	await first.ended;
	await RawClient.open(socket, 'structured', 'disk');
	expect(server.bytesHeld).toBe(0);
});

test('a client that goes away in the middle of a write leaves nothing behind', async () => {
	const writes: number[] = [];
	const shown = memoryExport(Buffer.alloc(SIZE), {
		write: offset => {
			writes.push(offset);
			return Promise.resolve();
		},
	});
	const {socket, server, reports} = await serve({disk: shown});
	const client = await RawClient.open(socket, 'structured', 'disk');
	client.send({command: COMMAND.write, length: 1000}, Buffer.alloc(999));
	client.socket.resume().end();
	await client.ended;
	await server.close();
	expect(writes).toEqual([]);
	expect(server.bytesHeld).toBe(0);
	expect(reports).toEqual([expect.stringMatching(/went away/)]);
});
