import {lastValueFrom, tap} from 'rxjs';
import type {Argv} from 'yargs';
import {verify, type VerifyMessage} from '../../operations/verify.ts';
import {archiveNamed} from '../archive/archive-name.ts';
import {exitCodeOf} from '../exit-codes.ts';
import {printMessage} from '../printer.ts';
import {printable} from '../printable.ts';
import {openProgressView} from '../progress-lines.ts';
import {countOf, formatBytes} from '../quantities.ts';
import {parsePointName, type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions, RepositoryOption {
	readonly point?: string;
	readonly deep: boolean;
	readonly index?: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage(
			'$0 verify [VM[@POINT]] -r FOLDER\n$0 verify FILE.vma\n\nReads points again and checks them: documents, sizes, checksums, images, and all ' +
				'that they lie on. Exit status 30 if one is damaged; the files are named.',
		)
		.positional('point', {
			type: 'string',
			describe: 'VM or VM@POINT; all of the repository if left out; or an archive, - for stdin',
		})
		.option('deep', {
			type: 'boolean',
			default: false,
			describe: 'Also read all that the guest would see, and compare it with hashes of what it saw at the cut',
		})
		.option('index', {type: 'string', describe: 'Of an archive, where it does not lie beside it'})
		.group(['deep', 'index', 'repository'], 'Verify:')
		.example('$0 verify -r /srv/backup', '')
		.example('$0 verify web1 --deep -r /srv/backup', 'every point of web1, by its content');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {json, quiet, signal} = context;
		const archive = archiveNamed(options.point, options.index);
		if (archive) {
			const {verifyNamedArchive} = await import('../archive/verify-archive.ts');
			return verifyNamedArchive(archive, context);
		}
		const named = options.point === undefined ? undefined : parsePointName(options.point);
		const view = openProgressView(quiet || json);
		const print = json ? printMessage : printWords;
		const source$ = verify({
			...{repository: repositoryOf(options), ...named, signal},
			depth: options.deep ? 'content' : 'files',
		});
		try {
			const last = await lastValueFrom(
				source$.pipe(
					tap(message => {
						if (message.kind === 'progress' && !json) {
							const {vm, point, bytesRead, bytesTotal} = message;
							view.show([{name: printable(`${vm}@${point}`), doneBytes: bytesRead, totalBytes: bytesTotal}]);
						} else {
							print(message, view.note.bind(view));
						}
					}),
				),
				{defaultValue: undefined},
			);
			return last?.kind === 'finished' && last.damaged > 0 ? exitCodeOf('DAMAGED') : undefined;
		} finally {
			view.end();
		}
	});
}

function printWords(message: VerifyMessage, note: (text: string) => void): void {
	if (message.kind === 'verified') {
		const {vm, point, problems, warnings} = message;
		const name = printable(`${vm}@${point}`);
		if (problems.length === 0) note(`${name}: sound`);
		for (const {file, problem} of problems) printResult(`${name}: DAMAGED: ${printable(`${file}: ${problem}`)}`);
		for (const {file, problem} of warnings) note(`${name}: ${printable(`${file}: ${problem}`)}`);
	} else if (message.kind === 'finished') {
		const {points, damaged, bytesRead} = message;
		const verdict = damaged === 0 ? 'all sound' : `${damaged} damaged`;
		printResult(`${countOf(points, 'point')} checked, ${formatBytes(bytesRead)} read: ${verdict}`);
	}
}
