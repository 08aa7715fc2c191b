import type {ExposeMessage} from '../operations/expose/expose-messages.ts';
import {printCut} from './cut-printer.ts';
import {printable} from './printable.ts';
import {openPrinter, type Printer} from './printer.ts';
import {formatBytes} from './quantities.ts';
import {printNote, printResult} from './terminal.ts';

/** JSON lines on stdout; or words on stderr and, where no command is to run, the URIs on stdout. */
export function exposePrinter(
	output: {readonly json: boolean; readonly quiet: boolean},
	hasCommand: boolean,
): Printer<ExposeMessage> {
	return openPrinter(output, (message, view) => {
		switch (message.kind) {
			case 'recovered':
			case 'warning':
			case 'cut':
				printCut(message, view);
				break;
			case 'exposed':
				for (const {disk, sizeBytes, changes, changedBytes} of message.exports) {
					const since = changes === null ? '' : `, ${formatBytes(changedBytes ?? 0)} changed (${changes})`;
					view.note(printable(`${disk}: ${formatBytes(sizeBytes)}${since}`));
				}
				if (hasCommand) break;
				for (const {uri} of message.exports) printResult(uri);
				if (!output.quiet) printNote('exposed until Ctrl-C or SIGTERM');
				break;
			case 'committed':
				view.note(printable(`the next exposure can name this one: --since ${message.name}`));
				break;
			case 'finished':
				view.note('no longer exposed; nothing is left in the VM');
		}
	});
}
