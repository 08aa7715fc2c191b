import type {MergeMessage, PlannedMerge} from '../operations/commit.ts';
import {printable} from './printable.ts';
import {openPrinter, type Printer} from './printer.ts';
import {formatBytes} from './quantities.ts';
import {type Column, formatTable} from './table.ts';
import {printResult, styled} from './terminal.ts';

/** Says what becomes of chains of images: in words, or as lines of JSON. */
export function mergePrinter({
	json,
	quiet,
	dryRun,
}: {
	readonly json: boolean;
	readonly quiet: boolean;
	readonly dryRun: boolean;
}): Printer<MergeMessage> {
	return openPrinter<MergeMessage>({json, quiet}, (message, view) => {
		switch (message.kind) {
			case 'recovered':
				view.note(printable(message.text));
				break;
			case 'warning':
				view.warn(`${styled('yellow', 'warning:')} ${printable(message.text)}`);
				break;
			case 'planned':
				if (dryRun) printResult(formatTable(COLUMNS, message.disks));
				else for (const disk of message.disks) view.note(printable(sentenceOf(disk)));
				break;
			case 'progress':
				view.show(message.disks.map(({disk, ...rest}) => ({name: printable(disk), ...rest})));
				break;
			case 'settling':
				view.note('all is copied');
				break;
			case 'merged':
				printResult(printable(`${message.disk}: merged into ${message.into}; it lies on ${message.liesOn}\n`));
				break;
			case 'removed':
				view.note(printable(`removed ${message.file}`));
				break;
			case 'kept':
				if (message.why === null)
					view.note(printable(`${message.file} is left where it is, and of no more use to the VM`));
				else view.warn(`${styled('yellow', 'warning:')} ${printable(`${message.file} is left: ${message.why}`)}`);
				break;
			case 'finished':
				for (const {disk, file} of message.moved) {
					view.warn(
						printable(`${disk}: what starts this VM has to name ${file} from now on; nobody else has been told of it`),
					);
				}
		}
	});
}

function sentenceOf({disk, kind, into, going, bytes}: PlannedMerge): string {
	const size = bytes === null ? '' : `, at most ${formatBytes(bytes)}`;
	const layers = going.join(', ');
	return kind === 'stream'
		? `${disk}: pulling ${layers} up into ${into}${size}`
		: `${disk}: ${layers} goes into ${into}${size}`;
}

const COLUMNS: readonly Column<PlannedMerge>[] = [
	{title: 'DISK', value: ({disk}) => printable(disk)},
	{title: 'MOVES AT MOST', value: ({bytes}) => (bytes === null ? '?' : formatBytes(bytes)), align: 'right'},
	{title: 'OUT OF', value: ({going}) => printable(going.join(', '))},
	{title: 'INTO', value: ({into}) => printable(into)},
];
