import {UsageError} from '../../errors.ts';
import type {ArchiveSource} from '../../operations/archive/archive-source.ts';
import {restoreArchive, type RestoreArchiveMessage} from '../../operations/archive/restore-archive.ts';
import {bootCommand} from '../../operations/boot-command.ts';
import {printBoot} from '../boot-printer.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {openPrinter, printAll, type Printer, printMessage} from '../printer.ts';
import type {ProgressView} from '../progress-lines.ts';
import type {CommandContext} from '../run-command.ts';
import {printResult} from '../terminal.ts';
import {NO_INDEX, showArchive} from './archive-view.ts';

export async function restoreNamedArchive(
	source: ArchiveSource,
	{to, disks}: {readonly to: string | undefined; readonly disks: ReadonlyMap<string, string> | undefined},
	context: CommandContext,
): Promise<void> {
	if ((to === undefined) === (disks === undefined)) {
		throw new UsageError('name either a folder with --to, or places with --disk NAME=PATH');
	}
	const messages$ = restoreArchive({source, to: to ?? disks ?? '', signal: context.signal});
	await printAll(messages$, printerFor(context));
}

function printerFor(context: CommandContext): Printer<RestoreArchiveMessage> {
	if (!context.json) {
		return openPrinter(context, (message, view) => {
			printWords(message, view, context.quiet);
		});
	}
	return {
		print: message => {
			if (message.kind === 'finished') printResult(toJson({messageType: 'summary', ...message, boot: bootOf(message)}));
			else printMessage(message);
		},
		end: () => undefined,
	};
}

function printWords(message: RestoreArchiveMessage, view: ProgressView, quiet: boolean): void {
	switch (message.kind) {
		case 'started':
			if (message.checked === 'not-at-all') view.warn(NO_INDEX);
			break;
		case 'progress':
			showArchive(message, view);
			break;
		case 'finished': {
			for (const {disk, path} of message.disks) view.note(printable(`${disk}: ${path} (raw)`));
			for (const file of message.configs) view.note(printable(file));
			const boot = bootOf(message);
			if (boot) printBoot(boot, quiet);
		}
	}
}

/** Of an archive that is not ours nobody knows how its VM was started. */
function bootOf({
	machine,
	disks,
}: Extract<RestoreArchiveMessage, {kind: 'finished'}>): ReturnType<typeof bootCommand> | null {
	return (
		machine &&
		bootCommand(
			machine,
			disks.map(({disk, path, bytes}) => ({disk, path, bytes, format: 'raw'})),
		)
	);
}
