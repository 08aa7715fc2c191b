import {type ChildProcessByStdio, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtempSync} from 'node:fs';
import {readdir, readFile, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Readable, Writable} from 'node:stream';
import {afterAll, afterEach} from 'vitest';

export interface RunOptions {
	readonly env?: Readonly<Record<string, string | undefined>>;
	readonly input?: string | Uint8Array;
	readonly cwd?: string;
	/** Program and arguments that start the program, such as `setpriv` with its options. */
	readonly under?: readonly string[];
	/** Node's own arguments. */
	readonly nodeArgs?: readonly string[];
	/** Each whole line of stdout and stderr, as it comes. */
	readonly onLine?: (line: string, run: QuiesceRun) => void;
	/** SIGKILL after that; default 60 s. */
	readonly timeoutMs?: number;
}

export interface Ended {
	/** Null if a signal ended it. */
	readonly code: number | null;
	readonly signal: NodeJS.Signals | null;
	readonly stdout: string;
	readonly stderr: string;
	readonly ms: number;
}

export interface QuiesceRun {
	readonly pid: number;
	readonly ended: Promise<Ended>;
	kill(signal?: NodeJS.Signals): void;
	/** Resolves as soon as what it printed matches; rejects with what it printed if it ends before. */
	says(pattern: RegExp): Promise<void>;
}

const project = join(import.meta.dirname, '../..');
const program = join(project, 'bin/quiesce.js');
const temporary = mkdtempSync(join(tmpdir(), 'quiesce-cli-'));

/** Where the runs of this test file keep their sockets and markers. */
export const runtimeDir = join(temporary, 'runtime');

const running = new Set<QuiesceRun>();

afterEach(async () => {
	for (const run of running) run.kill('SIGKILL');
	await Promise.all([...running].map(run => run.ended));
});

// One whose program was killed is ended by the next run, if there is one.
afterAll(async () => {
	for (const pid of await daemonsLeft()) process.kill(pid, 'SIGKILL');
	await rm(temporary, {recursive: true, force: true});
});

/** The storage daemons that serve a socket in the runs' folder. */
export async function daemonsLeft(): Promise<number[]> {
	const found: number[] = [];
	for (const pid of await readdir('/proc')) {
		if (!/^\d+$/.test(pid)) continue;
		const line = await readFile(join('/proc', pid, 'cmdline'), 'utf8').catch(() => '');
		if (line.startsWith('qemu-storage-daemon') && line.includes(runtimeDir)) found.push(Number(pid));
	}
	return found;
}

/** Starts the program as an operator would, away from a terminal. Whatever happens it ends with the test. */
export function startQuiesce(args: readonly string[], options: RunOptions = {}): QuiesceRun {
	const began = performance.now();
	const neutral = {
		COLUMNS: undefined,
		NO_COLOR: undefined,
		FORCE_COLOR: undefined,
		QUIESCE_REPOSITORY: undefined,
		QUIESCE_CONFIG: '',
	};
	const [command = '', ...before] = [...(options.under ?? []), process.execPath, ...(options.nodeArgs ?? [])];
	const child: ChildProcessByStdio<Writable, Readable, Readable> = spawn(command, [...before, program, ...args], {
		cwd: options.cwd ?? project,
		env: {...process.env, ...neutral, QUIESCE_RUNTIME_DIR: runtimeDir, ...options.env},
		stdio: ['pipe', 'pipe', 'pipe'],
	});
	// It may end before it has read its input.
	child.stdin.on('error', () => undefined).end(options.input ?? '');
	const printed = {stdout: '', stderr: ''};
	const watchers = new Set<() => void>();
	for (const name of ['stdout', 'stderr'] as const) {
		let rest = '';
		child[name].setEncoding('utf8').on('data', part => {
			printed[name] += String(part);
			const lines = (rest + String(part)).split('\n');
			rest = lines.pop() ?? '';
			for (const line of lines) options.onLine?.(line, run);
			for (const look of watchers) look();
		});
	}
	const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 60_000);
	// Not `close`: a thaw guard that outlives the program shares its stderr.
	const ended = once(child, 'exit').then(async ([code, signal]: unknown[]): Promise<Ended> => {
		clearTimeout(timer);
		running.delete(run);
		const ms = performance.now() - began;
		await drained(child.stdout);
		await drained(child.stderr);
		for (const stream of [child.stdout, child.stderr]) stream.destroy();
		for (const look of watchers) look();
		return {code: code as number | null, signal: signal as NodeJS.Signals | null, ...printed, ms};
	});
	const run: QuiesceRun = {
		pid: child.pid ?? 0,
		ended,
		kill: (signal = 'SIGKILL') => {
			child.kill(signal);
		},
		says: pattern =>
			new Promise((resolve, reject) => {
				const look = (): void => {
					const text = `${printed.stdout}${printed.stderr}`;
					const hasEnded = !running.has(run);
					if (!pattern.test(text) && !hasEnded) return;
					watchers.delete(look);
					if (pattern.test(text)) resolve();
					else reject(new Error(`it never said ${String(pattern)}, but:\n${text}`));
				};
				watchers.add(look);
				look();
			}),
	};
	running.add(run);
	return run;
}

/** What the program has written is in the pipe when it has ended; a child that inherited the pipe may keep it open. */
function drained(stream: Readable): Promise<void> {
	if (stream.readableEnded) return Promise.resolve();
	return new Promise(resolve => {
		const finish = (): void => {
			clearTimeout(timer);
			resolve();
		};
		const timer = setTimeout(finish, 100);
		stream.once('end', finish).once('close', finish);
		stream.on('data', () => {
			timer.refresh();
		});
	});
}

/** Runs the program to its end. */
export function runQuiesce(args: readonly string[], options?: RunOptions): Promise<Ended> {
	return startQuiesce(args, options).ended;
}

export interface Message extends Readonly<Record<string, unknown>> {
	readonly message_type: string;
}

/** Every line of stdout, each of which must be JSON. */
export function jsonLines({stdout}: Pick<Ended, 'stdout'>): Message[] {
	return stdout
		.split('\n')
		.filter(line => line !== '')
		.map(line => JSON.parse(line) as Message);
}

/** The last line, which says how it ended. */
export function lastOf(ended: Pick<Ended, 'stdout'>): Message {
	const last = jsonLines(ended).at(-1);
	if (!last) throw new Error('it printed nothing');
	return last;
}
