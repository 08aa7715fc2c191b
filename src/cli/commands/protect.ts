import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import {protect, type ProtectOptions, type ProtectReport} from '../../operations/protect.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {parsePointName, type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions, RepositoryOption {
	readonly point: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage('$0 protect VM@POINT -r FOLDER\n\nKeeps a point whatever the rules of `prune` say, until `unprotect`.')
		.positional('point', {type: 'string', demandOption: true, describe: 'VM@POINT'})
		.example('$0 protect web1@2026-11-21T08-00-00Z -r /srv/backup', '');
}

export function run(options: Options): Promise<void> {
	return runMarking(options, protect);
}

/** For both ways of it. */
export function runMarking(options: Options, mark: (options: ProtectOptions) => Promise<ProtectReport>): Promise<void> {
	return runCommand(options, async ({json}) => {
		const {vm, point} = parsePointName(options.point);
		if (point === undefined)
			throw new UsageError(`'${options.point}' names no point`, {hint: `Name it as ${vm}@POINT.`});
		const report = await mark({repository: repositoryOf(options), vm, point});
		const state = report.protected ? 'protected' : 'not protected';
		if (json) printResult(toJson(report));
		else
			printResult(
				`${printable(`${report.vm}@${report.point}`)}: ${report.was === 'already' ? 'already ' : ''}${state}`,
			);
		return undefined;
	});
}
