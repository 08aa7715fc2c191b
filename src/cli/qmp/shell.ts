import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import {errnoOf} from '../../errors.ts';
import type {QmpConnection} from '../../qmp/connection.ts';
import {QmpOutcomeUnknownError} from '../../qmp/errors.ts';
import {completeLine} from '../../qmp/complete.ts';
import type {QmpSchema} from '../../qmp/introspection.ts';
import {rawJson} from '../json.ts';
import {printable} from '../printable.ts';
import {reportOf} from '../report-error.ts';
import {printNote, printResult, styled} from '../terminal.ts';
import {checkedCommand, splitWords} from './command-line.ts';
import {describeCommand} from './describe.ts';

const KEPT_LINES = 1000;
/** What may be in a line that is not to be kept. */
const SECRET = /secret|password|passwd|\bkey\b|token/i;

/** A shell on a monitor, until its input ends, `exit`, or the monitor goes, of which it tells. */
export async function runShell(qmp: QmpConnection, schema: QmpSchema): Promise<void> {
	const {name = 'qmp'} = await qmp.execute('query-name');
	const history = historyFile();
	const shell = readline.createInterface({
		input: process.stdin,
		output: process.stdout,
		prompt: `${printable(name)}> `,
		history: readHistory(history),
		historySize: KEPT_LINES,
		removeHistoryDuplicates: true,
		completer: (line: string): [string[], string] => {
			const {candidates, word} = completeLine(schema, line);
			return [[...candidates], word];
		},
	});
	const {major, minor, micro} = qmp.version.qemu;
	printNote(
		`QEMU ${major}.${minor}.${micro} on ${printable(qmp.name)}. help, help COMMAND; Tab completes; Ctrl-D leaves.`,
	);
	let state: 'asking' | 'sending' = 'asking';
	const events = qmp.events$.subscribe({
		next: event => {
			if (state === 'asking') {
				readline.clearLine(process.stdout, 0);
				readline.cursorTo(process.stdout, 0);
			}
			printResult(styled('dim', rawJson(event)));
			if (state === 'asking') shell.prompt(true);
		},
		error: () => {
			shell.close();
		},
	});
	shell.on('SIGINT', () => {
		if (shell.line === '') shell.close();
		else {
			printResult('^C');
			shell.write(null, {ctrl: true, name: 'u'});
			shell.prompt();
		}
	});
	shell.on('history', lines => {
		keepHistory(history, lines);
	});
	try {
		shell.prompt();
		for await (const line of shell) {
			if (/^\s*exit\s*$/.test(line)) break;
			state = 'sending';
			await runLine(qmp, schema, line);
			state = 'asking';
			shell.prompt();
		}
	} finally {
		events.unsubscribe();
		shell.close();
	}
	if (qmp.isClosed) printNote(`the monitor ${printable(qmp.name)} is gone: QEMU has ended or dropped the connection`);
	else printResult('');
}

async function runLine(qmp: QmpConnection, schema: QmpSchema, line: string): Promise<void> {
	try {
		const words = splitWords(line);
		const [first, second] = words;
		if (first === undefined || first.startsWith('#')) return;
		if (first === 'help') {
			printResult(
				second === undefined ? schema.commands.map(({name}) => name).join('\n') : describeCommand(schema, second),
			);
			return;
		}
		const {command, args} = checkedCommand(schema, words);
		printResult(rawJson(await qmp.executeAny(command, args), 2));
	} catch (error) {
		if (error instanceof QmpOutcomeUnknownError && qmp.isClosed) return;
		const {message, hint} = reportOf(error);
		printNote(`${styled('red', 'error:')} ${message}`);
		if (hint !== undefined) printNote(`  Try: ${hint}`);
	}
}

/** As the XDG base directories have it. */
function historyFile(): string | undefined {
	const home = process.env['HOME'];
	const state = process.env['XDG_STATE_HOME'] ?? (home === undefined ? undefined : path.join(home, '.local/state'));
	return state === undefined || !path.isAbsolute(state) ? undefined : path.join(state, 'quiesce', 'qmp-history');
}

/** The newest first. */
function readHistory(file: string | undefined): string[] {
	try {
		return file === undefined ? [] : fs.readFileSync(file, 'utf8').split('\n').filter(Boolean).slice(0, KEPT_LINES);
	} catch (error) {
		if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error) ?? '')) return [];
		throw error;
	}
}

/** Where it cannot be kept the shell works without. */
function keepHistory(file: string | undefined, lines: readonly string[]): void {
	if (file === undefined) return;
	try {
		fs.mkdirSync(path.dirname(file), {recursive: true, mode: 0o700});
		fs.writeFileSync(file, lines.filter(line => !SECRET.test(line)).join('\n'), {mode: 0o600});
	} catch (error) {
		if (errnoOf(error) === undefined) throw error;
	}
}
