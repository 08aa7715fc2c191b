import {type ChildProcess, spawn} from 'node:child_process';
import {errnoOf, QuiesceError} from '../errors.ts';
import {dyingWithUs} from '../host/die-with-us.ts';

/** Where Debian and Ubuntu keep the tools that this program starts. */
const packageOf: Readonly<Record<string, string>> = {
	'qemu-img': 'qemu-utils',
	'qemu-io': 'qemu-utils',
	'qemu-nbd': 'qemu-utils',
	'qemu-storage-daemon': 'qemu-system-common',
};

const KILL_AFTER_MS = 2_000;
const MAX_OUTPUT_CHARACTERS = 4 * 1024 * 1024;
/** Of what a tool complains, the end tells why it gave up. */
const MAX_COMPLAINT_CHARACTERS = 16 * 1024;

export interface ToolCall {
	readonly tool: string;
	/** Handed over as they are: no shell reads them. */
	readonly args: readonly string[];
	/** What the tool works on, for the message of a failure. */
	readonly object: string;
	/** Ends the tool: SIGTERM, and SIGKILL 2 s later. */
	readonly signal?: AbortSignal | undefined;
	/** If we are killed: it goes on by default. */
	readonly whenKilled?: 'die' | undefined;
	/** Exit codes that are an answer and no failure; 0 if not given. */
	readonly answers?: readonly number[];
	/** Gets the output as it comes; it is then not collected. */
	readonly onOutput?: (text: string) => void;
}

export interface ToolResult {
	readonly exitCode: number;
	readonly stdout: string;
	/** The end of it, if it was long. */
	readonly stderr: string;
}

/**
 * Runs a program to its end, with nothing on its stdin. Settles once the program is gone, whatever the outcome; fails
 * with the signal's reason if that was aborted.
 */
export async function runTool(call: ToolCall): Promise<ToolResult> {
	const [program, args] =
		call.whenKilled === 'die' ? await dyingWithUs(call.tool, call.args) : ([call.tool, call.args] as const);
	call.signal?.throwIfAborted();
	const child = spawn(program, args, {
		stdio: ['ignore', 'pipe', 'pipe'],
		// Messages are shown and logged, and some are read: in one language.
		env: {...process.env, LC_ALL: 'C'},
	});
	const output = collect(call, child);
	const stopKilling = killOnAbort(child, call.signal);
	let end: ToolEnd;
	try {
		end = await ended(child);
	} catch (error) {
		throw startError(call, error);
	} finally {
		stopKilling();
	}
	call.signal?.throwIfAborted();
	const {stdout, stderr, tooLong} = output();
	if (tooLong) throw failure(call, 'it printed more than can be meant');
	if (end.signal) throw failure(call, `it was ended by ${end.signal}`);
	if (!(call.answers ?? [0]).includes(end.exitCode)) {
		throw failure(call, lastLine(call, stderr) ?? `exit code ${end.exitCode}`);
	}
	return {exitCode: end.exitCode, stdout, stderr};
}

/** Why the tool gave up: its last word on stderr, without its name. */
export function lastLine({tool}: Pick<ToolCall, 'tool'>, stderr: string): string | undefined {
	const line = stderr.trimEnd().split('\n').at(-1)?.trim();
	return line?.startsWith(`${tool}: `) ? line.slice(tool.length + 2) : line || undefined;
}

interface ToolEnd {
	readonly exitCode: number;
	readonly signal: NodeJS.Signals | null;
}

function ended(child: ChildProcess): Promise<ToolEnd> {
	return new Promise((resolve, reject) => {
		child.once('error', reject);
		child.once('close', (exitCode: number | null, signal: NodeJS.Signals | null) => {
			resolve({exitCode: exitCode ?? -1, signal});
		});
	});
}

function collect({onOutput}: ToolCall, {stdout, stderr}: ChildProcess) {
	let out = '';
	let complaint = '';
	let tooLong = false;
	stdout?.setEncoding('utf8').on('data', (text: string) => {
		if (onOutput) onOutput(text);
		else if (out.length + text.length > MAX_OUTPUT_CHARACTERS) tooLong = true;
		else out += text;
	});
	stderr?.setEncoding('utf8').on('data', (text: string) => {
		complaint = (complaint + text).slice(-MAX_COMPLAINT_CHARACTERS);
	});
	return () => ({stdout: out, stderr: complaint, tooLong});
}

function killOnAbort(child: ChildProcess, signal: AbortSignal | undefined): () => void {
	let timer: NodeJS.Timeout | undefined;
	const kill = (): void => {
		child.kill('SIGTERM');
		timer = setTimeout(() => child.kill('SIGKILL'), KILL_AFTER_MS);
	};
	signal?.addEventListener('abort', kill, {once: true});
	return () => {
		signal?.removeEventListener('abort', kill);
		clearTimeout(timer);
	};
}

function startError(call: ToolCall, error: unknown): QuiesceError {
	const {tool} = call;
	if (errnoOf(error) !== 'ENOENT') return failure(call, `it cannot be started (${errnoOf(error) ?? 'unknown'})`, error);
	const found = packageOf[tool];
	return new QuiesceError('FAILED', `${tool} is not installed, and is needed for ${call.object}`, {
		cause: error,
		hint: found && `Install it: apt-get install ${found}`,
	});
}

function failure({tool, object}: ToolCall, why: string, cause?: unknown): QuiesceError {
	return new QuiesceError('FAILED', `${tool} failed on ${object}: ${why}`, {cause});
}
