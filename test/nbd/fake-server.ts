import net from 'node:net';
import path from 'node:path';
import {onTestFinished} from 'vitest';
import {temporaryFolder} from '../repository/fixture.ts';

/** What a server does with one connection: `bytes` are all that the client has sent so far. */
type Behaviour = (socket: net.Socket, bytes: Buffer) => void;

/** Listens on a socket of its own until the test is over. Returns its path. */
export async function listen(accept: (socket: net.Socket) => {greet: Buffer; behave: Behaviour}): Promise<string> {
	const socketPath = path.join(temporaryFolder(), 'nbd.sock');
	const open = new Set<net.Socket>();
	const server = net.createServer(socket => {
		const {greet, behave} = accept(socket);
		let bytes = Buffer.alloc(0);
		open.add(socket);
		socket.on('error', () => undefined);
		socket.on('close', () => open.delete(socket));
		socket.on('data', part => {
			bytes = Buffer.concat([bytes, part]);
			behave(socket, bytes);
		});
		socket.write(greet);
	});
	await new Promise<void>(resolve => server.listen(socketPath, resolve));
	onTestFinished(() => {
		for (const socket of open) socket.destroy();
		server.close();
	});
	return socketPath;
}

export interface SeenRequest {
	readonly command: number;
	readonly cookie: bigint;
	readonly offset: bigint;
	readonly length: number;
}

/** How an option is refused that a server does not know. */
export const UNSUPPORTED = 0x8000_0001;

/** A server whose handshake is sound, without extended headers, and which answers requests as it is told. It knows every context. */
export function serve(sizeBytes: number, answer: (request: SeenRequest) => Buffer): Promise<string> {
	return listen(() => {
		let done = 4;
		let phase: 'options' | 'requests' = 'options';
		return {
			greet: encodeGreeting(),
			behave: (socket, bytes) => {
				for (;;) {
					const rest = bytes.subarray(done);
					if (phase === 'options') {
						if (rest.length < 16 || rest.length < 16 + rest.readUInt32BE(12)) return;
						const option = rest.readUInt32BE(8);
						const data = rest.subarray(16, 16 + rest.readUInt32BE(12));
						done += 16 + data.length;
						socket.write(answerOption(option, data, sizeBytes));
						if (option === 7) phase = 'requests';
					} else {
						if (rest.length < 28) return;
						done += 28;
						const request = {
							command: rest.readUInt16BE(6),
							cookie: rest.readBigUInt64BE(8),
							offset: rest.readBigUInt64BE(16),
							length: rest.readUInt32BE(24),
						};
						if (request.command === 2) socket.end();
						else socket.write(answer(request));
					}
				}
			},
		};
	});
}

function answerOption(option: number, data: Buffer, sizeBytes: number): Buffer {
	const ack = encodeOptionReply(option, 1);
	if (option === 11) return encodeOptionReply(11, UNSUPPORTED);
	if (option === 7) return Buffer.concat([encodeOptionReply(7, 3, encodeInfo(sizeBytes)), ack]);
	if (option !== 10) return ack;
	const names: Buffer[] = [];
	for (let at = 8 + data.readUInt32BE(0); at < data.length; at += 4 + (names.at(-1)?.length ?? 0)) {
		names.push(data.subarray(at + 4, at + 4 + data.readUInt32BE(at)));
	}
	return Buffer.concat([
		...names.map((name, id) => encodeOptionReply(10, 4, Buffer.concat([numbers([id, 4]), name]))),
		ack,
	]);
}

export function encodeGreeting(): Buffer {
	return Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), numbers([3, 2])]);
}

export function encodeOptionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
	return Buffer.concat([numbers([0x0003e889045565a9n, 8], [option, 4], [type, 4], [data.length, 4]), data]);
}

export function encodeInfo(sizeBytes: number | bigint): Buffer {
	return numbers([0, 2], [sizeBytes, 8], [1, 2]);
}

export const LAST = 1;

export function encodeChunk(cookie: number | bigint, type: number, flags: number, payload: Buffer): Buffer {
	return Buffer.concat([numbers([0x668e33ef, 4], [flags, 2], [type, 2], [cookie, 8], [payload.length, 4]), payload]);
}

export function encodeSimpleReply(cookie: number | bigint, errno: number): Buffer {
	return numbers([0x67446698, 4], [errno, 4], [cookie, 8]);
}

export function dataChunk(cookie: number | bigint, flags: number, offset: number | bigint, data: Buffer): Buffer {
	return encodeChunk(cookie, 1, flags, Buffer.concat([numbers([offset, 8]), data]));
}

export function holeChunk(cookie: number | bigint, flags: number, offset: number | bigint, length: number): Buffer {
	return encodeChunk(cookie, 2, flags, numbers([offset, 8], [length, 4]));
}

export function statusChunk(
	cookie: number | bigint,
	flags: number,
	contextId: number,
	extents: readonly (readonly [length: number, flags: number])[],
): Buffer {
	return encodeChunk(cookie, 5, flags, numbers([contextId, 4], ...extents.flat().map(n => [n, 4] as const)));
}

export function errorChunk(cookie: number | bigint, flags: number, errno: number, text = ''): Buffer {
	return encodeChunk(cookie, 0x8001, flags, Buffer.concat([numbers([errno, 4], [text.length, 2]), Buffer.from(text)]));
}

/** Each in so many bytes, the most significant first. */
export function numbers(...fields: readonly (readonly [value: number | bigint, bytes: number])[]): Buffer {
	return Buffer.concat(
		fields.map(([value, bytes]) =>
			Buffer.from(
				BigInt(value)
					.toString(16)
					.padStart(bytes * 2, '0'),
				'hex',
			),
		),
	);
}
