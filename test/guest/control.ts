import {randomBytes} from 'node:crypto';
import {once} from 'node:events';
import {connect, type Socket} from 'node:net';
import {createInterface} from 'node:readline';
import type {Finished} from './command.ts';

export interface Control {
	/** Runs a shell script in the guest. Many may run at once; none is ended when the time is over. */
	run: (script: string, timeoutMs?: number) => Promise<Finished>;
	close: () => void;
}

/** Talks to `fixtures/guest/control`, where the lines are described. */
export const connectControl = async (path: string): Promise<Control> => {
	const socket = connect(path);
	await once(socket, 'connect');
	return new ControlConnection(socket);
};

interface Waiter {
	resolve: (finished: Finished) => void;
	reject: (error: Error) => void;
}

class ControlConnection implements Control {
	readonly #socket: Socket;
	readonly #waiters = new Map<string, Waiter>();
	// Answers to a client before us may still be in the port; their names must not be ours.
	readonly #prefix = randomBytes(4).toString('hex');
	#requests = 0;

	constructor(socket: Socket) {
		this.#socket = socket;
		// An error is followed by a close, and says no more than it.
		socket.on('error', () => undefined);
		socket.on('close', () => {
			for (const {reject} of this.#waiters.values()) reject(new Error('the guest is gone'));
			this.#waiters.clear();
		});
		createInterface({input: socket}).on('line', line => {
			this.#take(line);
		});
		socket.write('\n');
	}

	run(script: string, timeoutMs = 30_000): Promise<Finished> {
		const id = `${this.#prefix}-${++this.#requests}`;
		return new Promise<Finished>((resolve, reject) => {
			if (this.#socket.destroyed) {
				reject(new Error('the guest is gone'));
				return;
			}
			const timer = setTimeout(() => {
				this.#waiters.delete(id);
				reject(new Error(`the guest did not answer within ${timeoutMs} ms: ${script}`));
			}, timeoutMs);
			const settled =
				<T>(settle: (value: T) => void) =>
				(value: T): void => {
					clearTimeout(timer);
					settle(value);
				};
			this.#waiters.set(id, {resolve: settled(resolve), reject: settled(reject)});
			this.#socket.write(`${id} ${Buffer.from(script).toString('base64')}\n`);
		});
	}

	close(): void {
		this.#socket.destroy();
	}

	#take(line: string): void {
		const [id = '', code, stdout, stderr] = line.split(' ');
		const waiter = this.#waiters.get(id);
		if (waiter === undefined || stderr === undefined) return;
		this.#waiters.delete(id);
		waiter.resolve({code: Number(code), stdout: decoded(stdout), stderr: decoded(stderr)});
	}
}

const decoded = (text = ''): string => (text === '-' ? '' : Buffer.from(text, 'base64').toString());
