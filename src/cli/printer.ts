import {lastValueFrom, type Observable, tap} from 'rxjs';
import {toJson} from './json.ts';
import {openProgressView, type ProgressView} from './progress-lines.ts';
import type {CommandContext} from './run-command.ts';
import {printResult} from './terminal.ts';

export interface Printer<Message> {
	print(message: Message): void;
	/** Also after a failure. */
	end(): void;
}

/** A message as a line of JSON; the last one of an operation is its summary. */
export function printMessage({kind, ...rest}: {readonly kind: string}): void {
	printResult(toJson({messageType: kind === 'finished' ? 'summary' : kind, ...rest}));
}

/** JSON lines on stdout; or what `printWords` makes of a message. */
export function openPrinter<Message extends {readonly kind: string}>(
	{json, quiet}: {readonly json: boolean; readonly quiet: boolean},
	printWords: (message: Message, view: ProgressView) => void,
): Printer<Message> {
	if (json) return {print: printMessage, end: () => undefined};
	const view = openProgressView(quiet);
	return {
		print: message => {
			printWords(message, view);
		},
		end: () => {
			view.end();
		},
	};
}

/** Prints what comes, and ends the printer. Returns what came last. */
export async function printAll<Message>(
	messages$: Observable<Message>,
	printer: Printer<Message>,
): Promise<Message | undefined> {
	const printed$ = messages$.pipe(
		tap(message => {
			printer.print(message);
		}),
	);
	try {
		return await lastValueFrom(printed$, {defaultValue: undefined});
	} finally {
		printer.end();
	}
}

/** The same, and logs all but progress. */
export function printAndLog<Message extends {readonly kind: string}>(
	messages$: Observable<Message>,
	printer: Printer<Message>,
	{log}: Pick<CommandContext, 'log'>,
): Promise<Message | undefined> {
	const logged$ = messages$.pipe(
		tap(message => {
			if (message.kind !== 'progress') log.info(message.kind, {message});
		}),
	);
	return printAll(logged$, printer);
}
