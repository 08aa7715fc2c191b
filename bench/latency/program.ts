import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {performance} from 'node:perf_hooks';
import {createInterface} from 'node:readline';
import {fileURLToPath} from 'node:url';

/** One line of `--json`. */
export interface Message extends Readonly<Record<string, unknown>> {
	readonly message_type: string;
}

export interface RunningProgram extends AsyncDisposable {
	/** When the program said this, by `performance.now()`. Rejects if it ends and has not. */
	said: (messageType: string) => Promise<number>;
	/** Its last line: `summary`, or `exit_error`. */
	readonly ended: Promise<Message>;
}

const program = fileURLToPath(new URL('../../bin/quiesce.js', import.meta.url));

/** Starts the program with `--json`. To dispose of it cancels it, and waits until it has undone what it began. */
export function startProgram(args: readonly string[], runtimeDir: string): RunningProgram {
	const child = spawn(process.execPath, [program, ...args, '--json', '-q'], {
		env: {...process.env, QUIESCE_RUNTIME_DIR: runtimeDir},
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	const times = new Map<string, number>();
	const watchers = new Set<() => void>();
	const ended = lastMessage(child, ({message_type}) => {
		if (!times.has(message_type)) times.set(message_type, performance.now());
		for (const look of watchers) look();
	});
	// Who does not ask how it ended need not hear of it.
	ended.catch(() => undefined);
	return {
		ended,
		said: messageType =>
			new Promise((resolve, reject) => {
				const look = (): void => {
					const time = times.get(messageType);
					if (time !== undefined) resolve(time);
				};
				watchers.add(look);
				look();
				ended.then(last => {
					reject(new Error(`quiesce ${args[0] ?? ''} ended early: ${JSON.stringify(last)}`));
				}, reject);
			}),
		[Symbol.asyncDispose]: async () => {
			if (child.exitCode === null && child.signalCode === null) {
				child.kill('SIGTERM');
				await once(child, 'exit');
			}
		},
	};
}

async function lastMessage(child: ChildProcess, onMessage: (message: Message) => void): Promise<Message> {
	let last: Message | undefined;
	for await (const line of createInterface({input: child.stdout!})) {
		last = JSON.parse(line) as Message;
		onMessage(last);
	}
	if (!last) throw new Error('quiesce printed nothing');
	return last;
}

/** Runs the program to its end, which must be a good one. */
export async function runProgram(args: readonly string[], runtimeDir: string): Promise<Message> {
	await using running = startProgram(args, runtimeDir);
	const last = await running.ended;
	if (last.message_type !== 'summary') throw new Error(`quiesce ${args[0] ?? ''}: ${String(last['message'])}`);
	return last;
}
