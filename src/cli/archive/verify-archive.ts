import type {ArchiveSource} from '../../operations/archive/archive-source.ts';
import {verifyArchive, type VerifyArchiveMessage} from '../../operations/archive/verify-archive.ts';
import {exitCodeOf} from '../exit-codes.ts';
import {printable} from '../printable.ts';
import {openPrinter, printAll} from '../printer.ts';
import type {ProgressView} from '../progress-lines.ts';
import {countOf, formatBytes} from '../quantities.ts';
import {showArchive} from './archive-view.ts';
import type {CommandContext} from '../run-command.ts';
import {printResult} from '../terminal.ts';

/** Returns the exit status, if it is not that of success. */
export async function verifyNamedArchive(source: ArchiveSource, context: CommandContext): Promise<number | undefined> {
	const last = await printAll(verifyArchive(source, context.signal), openPrinter(context, printWords));
	return last?.kind === 'finished' && last.problem !== undefined ? exitCodeOf('DAMAGED') : undefined;
}

function printWords(message: VerifyArchiveMessage, view: ProgressView): void {
	if (message.kind === 'progress') {
		showArchive(message, view);
		return;
	}
	const {checked, clusters, bytesRead, problem} = message;
	if (problem !== undefined) {
		printResult(`DAMAGED: ${printable(problem)}`);
		return;
	}
	if (checked === 'not-at-all') view.warn('there is no index, so the data was compared with nothing');
	printResult(`${countOf(clusters, 'cluster')} of 64 KiB, ${formatBytes(bytesRead)} read: sound`);
}
