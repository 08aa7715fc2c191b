import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {fileURLToPath} from 'node:url';
import {createInterface} from 'node:readline';
import {onTestFinished} from 'vitest';
import {isRunning} from './frozen-guest.ts';

/** What `frozen-child.ts` is to do. */
export interface FrozenOrder {
	readonly agent: string;
	readonly run: string;
	readonly freezeTimeoutMs: number;
	readonly holdMs: number;
	/** Inside the window: wait, stop itself, or spin. Or leave the guest to its guard. */
	readonly then: 'wait' | 'stop' | 'spin' | 'keep' | 'let-go';
	/** Whether it holds the guest's lock until the guard takes it over; only with `keep`. Default `own`. */
	readonly lock?: 'own' | 'none';
}

/** A running `frozen-child.ts`, in a process group of its own. */
export interface FrozenTool {
	readonly pid: number;
	readonly guard: number;
	/** The rest of the next line, which must begin so. */
	expect: (word: string) => Promise<string>;
	/** Resolves once the process has ended, with the signal that did it. */
	readonly exited: Promise<NodeJS.Signals | null>;
	/** What it and its guard said on stderr until now. */
	stderr: () => string;
}

/** Resolves once the guard is ready. When the test ends, both are ended too. */
export async function startTool(order: FrozenOrder): Promise<FrozenTool> {
	const program = fileURLToPath(new URL('frozen-child.ts', import.meta.url));
	const child = spawn(process.execPath, [program, JSON.stringify(order)], {
		stdio: ['ignore', 'pipe', 'pipe'],
		detached: true,
	});
	let stderr = '';
	child.stderr.setEncoding('utf8').on('data', (text: string) => {
		stderr += text;
	});
	const exited = once(child, 'exit').then(([, signal]) => signal as NodeJS.Signals | null);
	const lines = createInterface({input: child.stdout})[Symbol.asyncIterator]();
	const expectLine = async (word: string): Promise<string> => {
		const {value} = (await lines.next()) as {value: string | undefined};
		if (value === undefined || !value.startsWith(word)) throw new Error(`not ${word}: ${value ?? stderr}`);
		return value.slice(word.length + 1);
	};
	onTestFinished(() => {
		child.kill('SIGKILL');
	});
	const guard = Number(await expectLine('guard'));
	onTestFinished(async () => {
		if (await isRunning(guard)) process.kill(guard, 'SIGKILL');
	});
	return {pid: child.pid!, guard, expect: expectLine, exited, stderr: () => stderr};
}
