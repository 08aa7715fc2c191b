import {type ArchiveListing, listArchive} from '../../operations/archive/list-archive.ts';
import type {ArchiveSource} from '../../operations/archive/archive-source.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {formatBytes} from '../quantities.ts';
import type {CommandContext} from '../run-command.ts';
import {type Column, formatTable} from '../table.ts';
import {printNote, printResult} from '../terminal.ts';

export async function printArchive(source: ArchiveSource, {json, signal}: CommandContext): Promise<void> {
	const listing = await listArchive(source, signal);
	if (json) {
		printResult(toJson(listing));
		return;
	}
	printNote(`made ${listing.createdAt}, with ${listing.configs.map(printable).join(', ') || 'no configuration'}`);
	printResult(formatTable(COLUMNS, listing.disks));
}

const COLUMNS: readonly Column<ArchiveListing['disks'][number]>[] = [
	{title: 'DISK', value: ({disk}) => printable(disk)},
	{title: 'DEVICE', value: ({device}) => printable(device)},
	{title: 'SIZE', value: ({sizeBytes}) => formatBytes(sizeBytes), align: 'right'},
];
