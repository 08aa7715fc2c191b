import {asError, UsageError} from '../errors.ts';
import {FileTranscript, type Transcript} from '../qmp/transcript.ts';
import {toJson} from './json.ts';
import {type Log, openLog} from './log.ts';
import {reportOf} from './report-error.ts';
import {cancelOnSignals} from './signals.ts';
import {printNote, printResult, printWarning, styled, wordsAreDiverted} from './terminal.ts';

/** The options that every command has. */
export interface GlobalOptions {
	readonly json: boolean;
	readonly quiet: boolean;
	readonly debug: boolean;
	readonly log: string;
	readonly transcript?: string | undefined;
}

/** What a command is given, besides its own options. */
export interface CommandContext {
	readonly signal: AbortSignal;
	readonly json: boolean;
	readonly quiet: boolean;
	readonly transcript: Transcript | undefined;
	readonly log: Log;
	/** For a command that a signal ends and does not cancel: what is said of it then. */
	readonly endsWith: (words: string) => void;
	/** A warning, or what is being undone. */
	readonly tell: (text: string) => void;
}

/**
 * Runs a command's work: makes its context, turns what it throws into words and the exit status, and closes everything.
 * The work returns its exit status, if it is not 0.
 */
export async function runCommand(
	options: GlobalOptions,
	work: (context: CommandContext) => Promise<number | undefined>,
): Promise<void> {
	const cancellation = cancelOnSignals();
	const log = openLog(options.log);
	let file: FileTranscript | undefined;
	const tell = (text: string): void => {
		log.warn(text);
		if (options.json) printResult(toJson({messageType: 'warning', text}));
		else if (!wordsAreDiverted()) printWarning(text);
	};
	try {
		file = openTranscript(options.transcript, tell);
		const context: CommandContext = {
			...options,
			signal: cancellation.signal,
			endsWith: words => {
				cancellation.endsWith(words);
			},
			log,
			transcript: file ?? log.transcript,
			tell,
		};
		process.exitCode = (await work(context)) ?? 0;
	} catch (error) {
		process.exitCode = tellFailure(error, {...options, log}, cancellation.exitStatus());
	} finally {
		file?.close();
		cancellation.dispose();
	}
}

function openTranscript(path: string | undefined, tell: (text: string) => void): FileTranscript | undefined {
	if (path === undefined) return undefined;
	try {
		return new FileTranscript(path, error => {
			tell(`the transcript ${path} ends here: ${error.message}`);
		});
	} catch (error) {
		throw new UsageError(`cannot write the transcript ${path}: ${asError(error).message}`, {cause: error});
	}
}

/**
 * Tells a failure to the log, as JSON if that is wanted, and in words unless the log has all words. Also for what goes
 * wrong before a command is known. Returns the exit status.
 */
export function tellFailure(
	error: unknown,
	options: Pick<GlobalOptions, 'json' | 'debug'> & Pick<CommandContext, 'log'>,
	cancelledStatus?: number,
): number {
	const report = reportOf(error);
	const exitCode = report.code === 'CANCELLED' ? (cancelledStatus ?? report.exitCode) : report.exitCode;
	options.log.error(error, {code: report.code, exitCode, hint: report.hint});
	if (options.json) printResult(toJson({messageType: 'exit_error', ...report, exitCode}));
	if (wordsAreDiverted()) return exitCode;
	printNote(`${styled('red', 'quiesce:')} ${report.message}`);
	for (const text of report.problems) printNote(`  ${text}`);
	for (const text of report.also) printNote(`  and then: ${text}`);
	if (report.hint !== undefined) printNote(`  Try: ${report.hint}`);
	if (options.debug && error instanceof Error) printNote(stackOf(error));
	return exitCode;
}

function stackOf(error: Error): string {
	const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : '';
	return `${error.stack ?? error.message}${cause}`;
}
