import {type ChildProcessByStdio, spawn} from 'node:child_process';
import type {Readable, Writable} from 'node:stream';

/** A client of a server that is asked on its stdin and answers a line on its stdout. */
export class LineClient {
	readonly #process: ChildProcessByStdio<Writable, Readable, Readable>;
	readonly #lines: string[] = [];
	#rest = '';
	#wake: () => void = () => undefined;
	#said = '';
	#hasEnded = false;

	constructor([program = '', ...args]: readonly string[]) {
		this.#process = spawn(program, args, {stdio: ['pipe', 'pipe', 'pipe'], cwd: '/'});
		this.#process.stdin.on('error', () => undefined);
		this.#process.stderr.on('data', part => (this.#said += String(part)));
		this.#process.stdout.setEncoding('utf8').on('data', part => {
			const lines = (this.#rest + String(part)).split('\n');
			this.#rest = lines.pop() ?? '';
			this.#lines.push(...lines);
			this.#wake();
		});
		this.#process.once('close', () => {
			this.#hasEnded = true;
			this.#wake();
		});
	}

	/** Asked before the answers to earlier questions were taken, it still answers in order. */
	async ask(question: string): Promise<string> {
		this.#process.stdin.write(`${question}\n`);
		return this.line();
	}

	async line(): Promise<string> {
		for (;;) {
			const line = this.#lines.shift();
			if (line !== undefined) return line;
			if (this.#hasEnded) throw new Error(`the client ended: ${this.#said}`);
			await new Promise<void>(resolve => (this.#wake = resolve));
		}
	}

	end(): void {
		this.#process.kill('SIGKILL');
	}
}
