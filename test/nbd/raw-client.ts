import net from 'node:net';
import {once} from 'node:events';
import {onTestFinished} from 'vitest';
import * as messages from '../../src/nbd/messages.ts';
import * as options from '../../src/nbd/options.ts';
import {CHUNK, OPTION} from '../../src/nbd/protocol.ts';

export type Style = 'simple' | 'structured' | 'extended';

/** A client that sends what it is told, whether it makes sense or not. */
export class RawClient {
	readonly socket: net.Socket;
	/** Resolves when the server has ended the connection. */
	readonly ended: Promise<void>;
	style: Style = 'simple';
	#arrived: Buffer[] = [];
	#arrivedBytes = 0;
	#wake: (value: undefined) => void = () => undefined;

	private constructor(socket: net.Socket) {
		this.socket = socket;
		socket.on('error', () => undefined);
		this.ended = new Promise(resolve => {
			socket.once('close', () => {
				this.#wake(undefined);
				resolve();
			});
		});
		socket.on('data', bytes => {
			this.#arrived.push(bytes);
			this.#arrivedBytes += bytes.length;
			this.#wake(undefined);
		});
		onTestFinished(() => {
			socket.destroy();
		});
	}

	/** Up to where options are sent. */
	static async connect(socketPath: string, flags = 3): Promise<RawClient> {
		const socket = net.connect(socketPath);
		await once(socket, 'connect');
		const client = new RawClient(socket);
		options.checkGreeting(await client.read(options.GREETING_BYTES));
		const bytes = Buffer.alloc(4);
		bytes.writeUInt32BE(flags);
		socket.write(bytes);
		return client;
	}

	/** Up to where requests are sent. */
	static async open(socketPath: string, style: Style, exportName: string, contexts: string[] = []): Promise<RawClient> {
		const client = await RawClient.connect(socketPath);
		if (style !== 'simple') {
			await client.option(style === 'extended' ? OPTION.extendedHeaders : OPTION.structuredReply);
		}
		client.style = style;
		if (contexts.length > 0) {
			await client.option(OPTION.setMetaContext, options.encodeMetaContexts({exportName, queries: contexts}));
		}
		await client.option(OPTION.go, options.encodeGo({exportName, information: []}));
		return client;
	}

	/** Exactly so many bytes; rejects if they do not come. Nothing is taken from the socket until it is asked for. */
	async read(length: number): Promise<Buffer> {
		while (this.#arrivedBytes < length) {
			const more = Promise.withResolvers<undefined>();
			this.#wake = more.resolve;
			this.socket.resume();
			if (this.socket.destroyed) throw new Error('the server has ended the connection');
			await more.promise;
		}
		this.socket.pause();
		const all = Buffer.concat(this.#arrived);
		this.#arrived = [all.subarray(length)];
		this.#arrivedBytes -= length;
		return all.subarray(0, length);
	}

	/** All replies to an option, the last of which is final. */
	async option(option: number, data?: Buffer): Promise<{type: number; data: Buffer}[]> {
		this.socket.write(options.encodeOption(option, data));
		const replies: {type: number; data: Buffer}[] = [];
		for (;;) {
			const head = options.decodeOptionReply(await this.read(options.OPTION_REPLY_BYTES), option);
			replies.push({type: head.type, data: await this.read(head.length)});
			if (head.type === 1 || head.outcome === 'error') return replies;
		}
	}

	send(request: Partial<messages.Request>, payload: Buffer = Buffer.alloc(0)): void {
		const whole = {command: 0, flags: 0, cookie: 1n, offset: 0, length: 0, ...request};
		this.socket.write(Buffer.concat([messages.encodeRequest(this.style, whole), payload]));
	}

	/** The next reply, of which a simple one has `dataBytes` after it if it tells of no error. */
	async reply(dataBytes = 0): Promise<{cookie: bigint; errno: number; data: Buffer}> {
		const head = messages.decodeReplyHead(this.style, await this.read(messages.REPLY_BYTES[this.style]));
		const {cookie} = head;
		if (head.kind === 'simple') {
			return {cookie, errno: head.errno, data: await this.read(head.errno === 0 ? dataBytes : 0)};
		}
		const data = await this.read(head.length ?? (await this.read(4)).readUInt32BE());
		const errno = head.outcome === 'error' ? messages.decodeErrorPayload(data).errno : 0;
		return {cookie, errno, data: head.type === CHUNK.data ? data.subarray(8) : data};
	}
}
