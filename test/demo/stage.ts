import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdirSync, mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {endChildren} from './interruption.ts';

const program = join(import.meta.dirname, '../../bin/quiesce.js');
const COLUMNS = 80;

export interface Stage extends Disposable {
	/** Everything of the demonstration is in there, and goes with it. */
	readonly folder: string;
	/** Prints a command as it can be copied, and runs it with its output shown. Throws unless it succeeds. */
	quiesce(...args: readonly string[]): Promise<void>;
}

/** A folder of our own, also for what makes its own temporary folders, and a way to run the program in it. */
export function openStage(signal: AbortSignal): Stage {
	const folder = mkdtempSync(join(tmpdir(), 'quiesce-demo-'));
	process.env['TMPDIR'] = folder;
	// The locks and markers of the host's own runs are none of ours.
	process.env['QUIESCE_RUNTIME_DIR'] = join(folder, 'run');
	// The launcher finds this Node first, and need not start another one.
	process.env['PATH'] = `${dirname(process.execPath)}:${process.env['PATH'] ?? ''}`;
	mkdirSync(join(folder, 'repo'));

	let command: ReturnType<typeof spawn> | undefined;
	signal.addEventListener('abort', () => {
		// A backup that is cancelled wants its VM; once it has ended, what comes next is not begun.
		if (command) command.kill('SIGTERM');
		else endChildren();
	});
	return {
		folder,
		quiesce: async (...args) => {
			signal.throwIfAborted();
			say(wrap(['$', 'bin/quiesce.js', ...args]));
			// Apart from the terminal's signals: it gets one from us, and a second one would stop it at once.
			command = spawn(program, args, {stdio: ['ignore', 'inherit', 'inherit'], detached: true});
			const [code] = (await once(command, 'exit')) as [number | null];
			command = undefined;
			signal.throwIfAborted();
			if (code !== 0) throw new Error(`quiesce ${args[0] ?? ''} ended with exit status ${code ?? 'unknown'}`);
		},
		[Symbol.dispose]: () => {
			rmSync(folder, {recursive: true, force: true, maxRetries: 3});
		},
	};
}

export function say(text = ''): void {
	process.stdout.write(`${text}\n`);
}

export function title(text: string): void {
	say(`\n== ${text}\n`);
}

/** Words for a shell, in lines that fit, where an option stays with its value. */
function wrap(words: readonly string[]): string {
	const lines = [''];
	const rest = words.values();
	for (let word of rest) {
		if (word.startsWith('-')) word += ` ${rest.next().value ?? ''}`;
		const line = lines.at(-1) ?? '';
		// Two columns for the backslash.
		if (line !== '' && line.length + 1 + word.length > COLUMNS - 2) lines.push(`    ${word}`);
		else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
	}
	return lines.join(' \\\n');
}
