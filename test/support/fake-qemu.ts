import {on, once} from 'node:events';
import {mkdtemp, rm} from 'node:fs/promises';
import net from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished} from 'vitest';

/** A command as the client sent it. */
export interface SentCommand {
	readonly 'execute'?: string;
	readonly 'exec-oob'?: string;
	readonly 'arguments'?: unknown;
	readonly 'id': string;
}

/**
 * A QMP server that does what the test says, on a real Unix socket. For what a real QEMU does not do on request: lie,
 * hang, answer late, drop the line between an event and its reply.
 *
 *     const qemu = await FakeQemu.listen();
 *     const opening = QmpConnection.open(qemu.address);
 *     const client = await qemu.accept();
 *     await client.negotiate();
 *     const qmp = await opening;
 *
 *     const jobs = qmp.execute('query-jobs');
 *     client.reply(await client.expect('query-jobs'), []);
 *     await jobs;
 */
export class FakeQemu {
	readonly address: {readonly unix: string};
	readonly #arriving: AsyncIterator<unknown, unknown>;

	private constructor(unix: string, server: net.Server) {
		this.address = {unix};
		this.#arriving = on(server, 'connection');
	}

	/** Listens in a temporary folder until the test ends, and then cuts whoever is still there. */
	static async listen(): Promise<FakeQemu> {
		const folder = await mkdtemp(join(tmpdir(), 'quiesce-fake-qemu-'));
		const sockets = new Set<net.Socket>();
		const server = net.createServer(socket => {
			sockets.add(socket);
			// The client may leave at any time; `expect` tells.
			socket.on('error', () => undefined);
		});
		onTestFinished(async () => {
			for (const socket of sockets) socket.destroy();
			server.close();
			await rm(folder, {recursive: true});
		});
		const qemu = new FakeQemu(join(folder, 'qmp.sock'), server);
		server.listen(qemu.address.unix);
		await once(server, 'listening');
		return qemu;
	}

	/** The next client that connects, or has connected. */
	async accept(): Promise<FakeClient> {
		const {value} = (await this.#arriving.next()) as {value: [net.Socket]};
		return new FakeClient(value[0]);
	}
}

/** The server's end of one client's connection. */
export class FakeClient {
	readonly #socket: net.Socket;
	readonly #commands: AsyncGenerator<SentCommand, undefined>;

	constructor(socket: net.Socket) {
		this.#socket = socket;
		this.#commands = commandsFrom(socket);
	}

	greet(capabilities: readonly unknown[] = ['oob']): void {
		this.#say({QMP: {version: {qemu: {major: 11, minor: 1, micro: 3}, package: ''}, capabilities}});
	}

	/** Greets, and agrees to what the client asks for. */
	async negotiate(capabilities: readonly unknown[] = ['oob']): Promise<void> {
		this.greet(capabilities);
		this.reply(await this.expect('qmp_capabilities'));
	}

	/** The next command, which must be this one. Fails when the client leaves instead. */
	async expect(command: string): Promise<SentCommand> {
		const {value} = await this.#commands.next();
		if (!value) throw new Error(`the client left; it was to send ${command}`);
		expect(value.execute ?? value['exec-oob']).toBe(command);
		return value;
	}

	/** Resolves once the client has left, and fails when it sends something first. */
	async expectToLeave(): Promise<void> {
		expect(await this.#commands.next()).toEqual({value: undefined, done: true});
	}

	reply(to: SentCommand, value: unknown = {}): void {
		this.#say({return: value, id: to.id});
	}

	refuse(to: SentCommand, description: string, errorClass = 'GenericError'): void {
		this.#say({error: {class: errorClass, desc: description}, id: to.id});
	}

	emit(event: string, data?: object): void {
		this.#say({timestamp: {seconds: 1_800_000_000, microseconds: 0}, event, data});
	}

	/** Sends what no QEMU would. */
	send(bytes: string | Uint8Array): void {
		this.#socket.write(bytes);
	}

	/** Closes, after what was sent. */
	leave(): void {
		this.#socket.end();
	}

	/** Closes as a crash does: what was sent may be lost. */
	cut(): void {
		this.#socket.destroy();
	}

	#say(message: object): void {
		this.send(`${JSON.stringify(message)}\r\n`);
	}
}

async function* commandsFrom(socket: net.Socket): AsyncGenerator<SentCommand, undefined> {
	let unread = '';
	try {
		for await (const chunk of socket.setEncoding('utf8')) {
			const lines = (unread + String(chunk)).split('\n');
			unread = lines.pop() ?? '';
			for (const line of lines) yield JSON.parse(line) as SentCommand;
		}
	} catch (error) {
		if (error instanceof SyntaxError) throw error;
	}
	return undefined;
}
