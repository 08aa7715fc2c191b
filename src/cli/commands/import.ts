import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import {importArchive, type ImportMessage} from '../../operations/archive/import-archive.ts';
import {archiveNamed} from '../archive/archive-name.ts';
import {NO_INDEX, showArchive} from '../archive/archive-view.ts';
import {printable} from '../printable.ts';
import {openPrinter, printAll} from '../printer.ts';
import type {ProgressView} from '../progress-lines.ts';
import {countOf, formatBytes} from '../quantities.ts';
import {type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions, RepositoryOption {
	readonly archive: string;
	readonly name?: string;
	readonly compress: 'zstd' | 'none';
	readonly index?: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage(
			'$0 import FILE.vma -r FOLDER\n\nMakes a full point of an archive, one of ours or of Proxmox. One that is damaged leaves nothing.',
		)
		.positional('archive', {type: 'string', demandOption: true, describe: 'An archive, also .vma.zst; - for stdin'})
		.option('name', {type: 'string', describe: 'What to call the VM; else what the archive says'})
		.option('compress', {choices: ['zstd', 'none'] as const, default: 'zstd', describe: 'Of the stored images'})
		.option('index', {type: 'string', describe: 'The index of the archive, where it does not lie beside it'})
		.group(['name', 'compress', 'index', 'repository'], 'Import:')
		.example('$0 import vzdump-qemu-101-2026_11_21-08_00_00.vma.zst --name web1 -r /srv/backup', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {archive, index, name, compress: compression} = options;
		const source = archiveNamed(archive, index);
		if (!source) throw new UsageError(`${archive} is called neither .vma nor .vma.zst`);
		const request = {source, repository: repositoryOf(options), name, compression, signal: context.signal};
		await printAll(importArchive(request), openPrinter(context, printWords));
		return undefined;
	});
}

function printWords(message: ImportMessage, view: ProgressView): void {
	switch (message.kind) {
		case 'recovered':
			view.warn(`recovered: ${printable(message.text)}`);
			break;
		case 'started':
			view.note(`importing ${printable(message.vm)}@${message.point}`);
			if (message.checked === 'not-at-all') view.warn(NO_INDEX);
			break;
		case 'progress':
			showArchive(message, view);
			break;
		case 'storing':
			view.show([{name: message.disk, doneBytes: message.done * message.bytes, totalBytes: message.bytes}]);
			break;
		case 'finished': {
			const {vm, id, disks} = message.manifest;
			const stored = disks.reduce((sum, {storedBytes}) => sum + storedBytes, 0);
			view.note(`done: full point of ${countOf(disks.length, 'disk')}, ${formatBytes(stored)} stored`);
			printResult(printable(`${vm}@${id}`));
		}
	}
}
