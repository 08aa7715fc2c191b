import {once} from 'node:events';
import {mkdtemp, rm} from 'node:fs/promises';
import net from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {onTestFinished} from 'vitest';
import {JsonObjectFramer} from '../../src/qmp/framer.ts';

/** A command as the client sent it. */
export interface AgentCommand {
	readonly execute: string;
	readonly arguments?: {readonly id?: number; readonly mountpoints?: readonly string[]};
}

/** What goes back: a message, bytes as they are, or nothing at all. */
export type AgentAnswer = {readonly return: unknown} | {readonly error: object} | string | Buffer | undefined;

export type AgentScript = (command: AgentCommand, socket: net.Socket) => AgentAnswer;

/**
 * A guest agent that does what the test says, on a real Unix socket. For what a real one does not do on request: lie,
 * babble, thaw less than it froze. It answers `guest-sync-delimited` as it should, unless `sync` is `'script'`.
 */
export class FakeAgent {
	readonly address: {readonly unix: string};
	/** The names of the commands that came, without the synchronizing ones. */
	readonly received: string[] = [];
	readonly #script: AgentScript;
	readonly #sync: 'honest' | 'script';

	private constructor(unix: string, script: AgentScript, sync: 'honest' | 'script') {
		this.address = {unix};
		this.#script = script;
		this.#sync = sync;
	}

	/** Listens in a temporary folder until the test ends, and then cuts whoever is still there. */
	static async listen(script: AgentScript, sync: 'honest' | 'script' = 'honest'): Promise<FakeAgent> {
		const folder = await mkdtemp(join(tmpdir(), 'quiesce-fake-agent-'));
		const agent = new FakeAgent(join(folder, 'qga.sock'), script, sync);
		const sockets = new Set<net.Socket>();
		const server = net.createServer(socket => {
			sockets.add(socket);
			// The client may leave at any time.
			socket.on('error', () => undefined);
			agent.#serve(socket);
		});
		onTestFinished(async () => {
			for (const socket of sockets) socket.destroy();
			server.close();
			await rm(folder, {recursive: true});
		});
		server.listen(agent.address.unix);
		await once(server, 'listening');
		return agent;
	}

	#serve(socket: net.Socket): void {
		const framer = new JsonObjectFramer({between: 'skip'});
		socket.on('data', chunk => {
			for (const bytes of framer.push(chunk)) {
				const command = JSON.parse(bytes.toString()) as AgentCommand;
				if (command.execute === 'guest-sync-delimited' && this.#sync === 'honest') {
					socket.write(Buffer.concat([Buffer.of(0xff), message({return: command.arguments?.id})]));
					continue;
				}
				if (command.execute !== 'guest-sync-delimited') this.received.push(command.execute);
				const answer = this.#script(command, socket);
				if (answer === undefined) continue;
				socket.write(typeof answer === 'string' || Buffer.isBuffer(answer) ? answer : message(answer));
			}
		});
	}
}

/** A script that answers each command with what the table says, and refuses what is not in it. */
export function answering(table: Readonly<Record<string, AgentAnswer>>): AgentScript {
	return ({execute}) =>
		execute in table ? table[execute] : {error: {class: 'CommandNotFound', desc: `no ${execute} here`}};
}

/** An agent that says it can freeze, and the guest is thawed. */
export const usual = {
	'guest-info': {
		return: {
			version: '7.2.22',
			supported_commands: ['guest-fsfreeze-freeze', 'guest-fsfreeze-freeze-list', 'guest-fsfreeze-thaw'].map(name => ({
				name,
				enabled: true,
			})),
		},
	},
	'guest-fsfreeze-status': {return: 'thawed'},
	'guest-fsfreeze-freeze': {return: 2},
	'guest-fsfreeze-thaw': {return: 2},
} as const satisfies Readonly<Record<string, AgentAnswer>>;

function message(value: object): Buffer {
	return Buffer.from(`${JSON.stringify(value)}\n`);
}
