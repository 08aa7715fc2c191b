import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {fileURLToPath} from 'node:url';

const launcher = fileURLToPath(new URL('../../bin/quiesce.js', import.meta.url));
const DEADLINE_MS = 120_000;

export interface Ended {
	/** Null if a signal ended it. */
	readonly code: number | null;
	readonly signal: NodeJS.Signals | null;
	readonly stdout: string;
	readonly stderr: string;
	/** It went on for ever, and was killed. */
	readonly hung: boolean;
	readonly ms: number;
}

/** The program as a child process. All that it starts inherits its runtime folder. */
export class Program {
	readonly pid: number;
	readonly ended: Promise<Ended>;
	readonly #signal: (signal: NodeJS.Signals) => void;

	/** `onLine` is told each line of stdout as it comes. */
	constructor(args: readonly string[], runtimeDir: string, onLine: (line: string) => void = () => undefined) {
		const began = performance.now();
		const env = {...process.env, QUIESCE_REPOSITORY: undefined, QUIESCE_RUNTIME_DIR: runtimeDir, NO_COLOR: '1'};
		const child = spawn(process.execPath, [launcher, ...args], {env, stdio: ['ignore', 'pipe', 'pipe']});
		this.pid = child.pid ?? 0;
		this.#signal = signal => void child.kill(signal);
		const said = {stdout: '', stderr: ''};
		let rest = '';
		child.stdout.setEncoding('utf8').on('data', (part: string) => {
			said.stdout += part;
			const lines = (rest + part).split('\n');
			rest = lines.pop() ?? '';
			for (const line of lines) onLine(line);
		});
		child.stderr.setEncoding('utf8').on('data', (part: string) => (said.stderr += part));
		let hung = false;
		const timer = setTimeout(() => {
			hung = true;
			child.kill('SIGKILL');
		}, DEADLINE_MS);
		// Not `close`: what outlives the program shares its stderr.
		this.ended = once(child, 'exit').then(async ([code, signal]: unknown[]) => {
			clearTimeout(timer);
			// What it has written is in the pipe by now.
			await new Promise(resolve => setTimeout(resolve, 50));
			for (const stream of [child.stdout, child.stderr]) stream.destroy();
			const ms = performance.now() - began;
			return {code: code as number | null, signal: signal as NodeJS.Signals | null, ...said, hung, ms};
		});
	}

	signal(signal: NodeJS.Signals): void {
		this.#signal(signal);
	}
}

/** How it ended, and what it said last, but for its JSON. */
export function outcomeOf({code, signal, stdout, stderr, hung}: Ended): string {
	const how = hung ? 'hung' : (signal ?? `exit code ${code ?? 'none'}`);
	const words = `${stdout}\n${stderr}`.split('\n').filter(line => line !== '' && !line.startsWith('{'));
	return [how, ...words.slice(-4)].join('\n      ');
}
