import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFile} from 'node:fs/promises';
import {join} from 'node:path';
import type {Readable} from 'node:stream';
import {setTimeout as delay} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';

const project = join(import.meta.dirname, '../../..');
const PRELOAD = fileURLToPath(new URL('at-step.ts', import.meta.url));

export interface ToolOptions {
	readonly env: Readonly<Record<string, string>>;
	/** Where the names of its steps go. */
	readonly steps?: string;
	/** The step at which it stops. */
	readonly stopAt?: string;
	/** SIGKILL after that. */
	readonly timeoutMs?: number;
}

export interface ToolEnded {
	/** Null if a signal ended it. */
	readonly code: number | null;
	readonly signal: NodeJS.Signals | null;
	readonly stdout: string;
	readonly stderr: string;
	readonly timedOut: boolean;
}

/** The program as a child process, which can be stopped at a step. */
export class Tool {
	readonly pid: number;
	readonly ended: Promise<ToolEnded>;
	/** True once it stands still at the step it was to stop at; false if it ended without coming there. */
	readonly stopped: Promise<boolean>;
	readonly #child: ChildProcess;

	constructor(args: readonly string[], options: ToolOptions) {
		const {steps, stopAt, timeoutMs = 120_000} = options;
		const watched = steps === undefined ? [] : ['--disable-warning=ExperimentalWarning', '--import', PRELOAD];
		const env = {...process.env, QUIESCE_REPOSITORY: undefined, NO_COLOR: '1', ...options.env};
		const child = spawn(process.execPath, [...watched, join(project, 'bin/quiesce.js'), ...args], {
			stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
			env: {
				...env,
				...(steps === undefined ? {} : {QUIESCE_TEST_STEPS: steps}),
				...(stopAt === undefined ? {} : {QUIESCE_TEST_STOP_AT: stopAt}),
			},
		});
		this.#child = child;
		this.pid = child.pid ?? 0;
		let timedOut = false;
		const timer = setTimeout(() => {
			timedOut = true;
			child.kill('SIGKILL');
		}, timeoutMs);
		const printed = {stdout: '', stderr: ''};
		for (const name of ['stdout', 'stderr'] as const) {
			child[name]?.setEncoding('utf8').on('data', part => (printed[name] += String(part)));
		}
		// Not `close`: what outlives the program shares its stderr.
		const exit = once(child, 'exit');
		this.ended = exit.then(async ([code, signal]: unknown[]) => {
			clearTimeout(timer);
			await Promise.all([drained(child.stdout), drained(child.stderr)]);
			return {code: code as number | null, signal: signal as NodeJS.Signals | null, ...printed, timedOut};
		});
		this.stopped = Promise.race([
			once(child.stdio[3] as Readable, 'data').then(() => true),
			exit.then(() => false),
		]).then(async isStopping => {
			while (isStopping && (await stateOf(this.pid)) !== 'T') await delay(1);
			return isStopping;
		});
	}

	signal(signal: NodeJS.Signals): void {
		this.#child.kill(signal);
	}
}

async function stateOf(pid: number): Promise<string> {
	const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') T');
	return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3);
}

/** What the program has written is in the pipe when it has ended; a child that inherited the pipe may keep it open. */
function drained(stream: Readable | null): Promise<void> {
	if (!stream || stream.readableEnded) return Promise.resolve();
	return new Promise(resolve => {
		const finish = (): void => {
			clearTimeout(timer);
			stream.destroy();
			resolve();
		};
		const timer = setTimeout(finish, 100);
		stream.once('end', finish).once('close', finish);
		stream.on('data', () => {
			timer.refresh();
		});
	});
}

/** What follows `--` is another program's. */
export function withOptions(args: readonly string[], options: readonly string[]): string[] {
	const end = args.includes('--') ? args.indexOf('--') : args.length;
	return [...args.slice(0, end), ...options, ...args.slice(end)];
}
