import type {ExportedArchive, ExportMessage} from '../operations/archive/export-messages.ts';
import {printCut} from './cut-printer.ts';
import {printable} from './printable.ts';
import {openPrinter, type Printer} from './printer.ts';
import type {ProgressView} from './progress-lines.ts';
import {countOf, formatBytes} from './quantities.ts';
import {printResult, styled} from './terminal.ts';

/** JSON lines on stdout; or words on stderr, and at the end the file's name on stdout, unless the archive goes there. */
export function exportPrinter(
	output: {readonly json: boolean; readonly quiet: boolean},
	file: string,
): Printer<ExportMessage> {
	return openPrinter(output, (message, view) => {
		printWords(message, view);
		if (message.kind === 'finished' && file !== '-') printResult(file);
	});
}

function printWords(message: ExportMessage, view: ProgressView): void {
	switch (message.kind) {
		case 'recovered':
		case 'warning':
		case 'cut':
			printCut(message, view);
			break;
		case 'planned': {
			const {vm, disks, skipped, method, quiesce, compression} = message;
			const names = disks.map(({name, device, sizeBytes}) => `${name} as ${device} (${formatBytes(sizeBytes)})`);
			view.note(printable(`${vm}: export of ${names.join(', ')}`));
			for (const {name, reason} of skipped) view.note(printable(`  not ${name}: ${reason}`));
			const how = method === null ? 'from a point' : `${quiesce ? 'with' : 'without'} a freeze, by ${method}`;
			view.note(`  ${how}, ${compression === 'none' ? 'not compressed' : compression}`);
			break;
		}
		case 'checking':
			view.show([{name: 'checking', doneBytes: message.bytesRead, totalBytes: message.bytesTotal}]);
			break;
		case 'progress':
			view.show(message.disks.map(({disk, doneBytes, totalBytes}) => ({name: disk, doneBytes, totalBytes})));
			break;
		case 'settling':
			view.note('copied; closing and syncing the archive');
			break;
		case 'finished':
			view.note(reportLine(message));
	}
}

function reportLine({disks, consistency, archiveBytes}: ExportedArchive): string {
	const total = disks.reduce((sum, {sizeBytes}) => sum + sizeBytes, 0);
	return (
		`${styled('green', 'done:')} ${consistency} archive of ${countOf(disks.length, 'disk')}: ` +
		`${formatBytes(total)} in ${formatBytes(archiveBytes)} before compression`
	);
}
