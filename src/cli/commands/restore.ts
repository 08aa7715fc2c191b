import {lastValueFrom, tap} from 'rxjs';
import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import {bootCommand} from '../../operations/boot-command.ts';
import {restore, type RestoreMessage} from '../../operations/restore.ts';
import {isUnproved} from '../../repository/manifest.ts';
import {archiveNamed} from '../archive/archive-name.ts';
import {printBoot} from '../boot-printer.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {openProgressView, type ProgressView} from '../progress-lines.ts';
import {parsePointName, type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions, RepositoryOption {
	readonly point: string;
	readonly to?: string;
	readonly disk?: readonly string[];
	readonly format?: 'raw' | 'qcow2';
	readonly index?: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage(
			'$0 restore VM[@POINT] --to FOLDER -r FOLDER\n$0 restore VM[@POINT] --disk NAME=PATH… -r FOLDER\n$0 restore FILE.vma --to FOLDER\n\n' +
				'Checks a point and writes its disks to a new folder, or disk by disk to new files or ' +
				'block devices. Without @POINT the newest is taken. Nothing that exists is overwritten, ' +
				'except block devices. Prints the QEMU command line that starts the VM from them.',
		)
		.positional('point', {type: 'string', demandOption: true, describe: 'VM or VM@POINT; or an archive, - for stdin'})
		.option('to', {type: 'string', describe: 'A new or empty folder for all disks'})
		.option('disk', {type: 'string', array: true, nargs: 1, describe: 'NAME=PATH: this disk to that file or device'})
		.option('format', {choices: ['raw', 'qcow2'] as const, describe: 'Of the files; else what each disk had'})
		.option('index', {type: 'string', describe: 'Of an archive, where it does not lie beside it'})
		.group(['to', 'disk', 'format', 'index', 'repository'], 'Restore:')
		.example('$0 restore web1 --to /var/lib/restored -r /srv/backup', 'the newest point of web1')
		.example('$0 restore web1@2026-11-21T08-00-00Z --disk vda=/dev/vg0/web1 -r /srv/backup', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {json, quiet, signal} = context;
		const disks = options.disk === undefined ? undefined : new Map(options.disk.map(parseAssignment));
		const archive = archiveNamed(options.point, options.index);
		if (archive) {
			if (options.format === 'qcow2') throw new UsageError('the disks of an archive are restored raw');
			const {restoreNamedArchive} = await import('../archive/restore-archive.ts');
			await restoreNamedArchive(archive, {to: options.to, disks}, context);
			return undefined;
		}
		const named = parsePointName(options.point);
		const view = openProgressView(quiet || json);
		const {to, format} = options;
		const messages$ = restore({...named, repository: repositoryOf(options), to, disks, format, signal});
		try {
			await lastValueFrom(
				messages$.pipe(
					tap(message => {
						if (json) printJson(message);
						else printWords(message, view, quiet);
					}),
				),
				{defaultValue: undefined},
			);
		} finally {
			view.end();
		}
		return undefined;
	});
}

function parseAssignment(text: string): [name: string, path: string] {
	const equals = text.lastIndexOf('=');
	const [name, path] = [text.slice(0, equals), text.slice(equals + 1)];
	if (equals <= 0 || path === '') throw new UsageError(`--disk: '${text}' is not NAME=PATH`);
	return [name, path];
}

function printJson({kind, ...rest}: RestoreMessage): void {
	if (kind !== 'finished') printResult(toJson({messageType: kind, ...rest}));
	else printResult(toJson({messageType: 'summary', ...rest, boot: bootOf({kind, ...rest} as FinishedMessage)}));
}

function printWords(message: RestoreMessage, view: ProgressView, quiet: boolean): void {
	switch (message.kind) {
		case 'started':
			view.note(`restoring ${printable(`${message.point.vm}@${message.point.id}`)}, ${message.point.consistency}`);
			if (message.point.disks.some(isUnproved)) {
				view.note('it was taken without hashes, so nobody can tell whether it holds what it should');
			}
			break;
		case 'checking':
			view.show([{name: 'checking', doneBytes: message.bytesRead, totalBytes: message.bytesTotal}]);
			break;
		case 'progress':
			view.show([{name: message.disk, doneBytes: message.done * message.bytes, totalBytes: message.bytes}]);
			break;
		case 'restored':
			view.note(`${printable(message.disk)}: ${message.path} (${message.format})`);
			break;
		case 'finished':
			printBoot(bootOf(message), quiet);
	}
}

type FinishedMessage = Extract<RestoreMessage, {kind: 'finished'}>;

function bootOf({machine, disks}: FinishedMessage): ReturnType<typeof bootCommand> {
	return bootCommand(machine, disks);
}
