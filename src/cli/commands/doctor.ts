import type {Argv} from 'yargs';
import type {MethodWishes} from '../../operations/choose-method.ts';
import {doctor, type Finding} from '../../operations/doctor.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {type RepositoryOption, repositoryIfAny, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';
import {socketsOf, type VmOptions, vmOptions} from '../vm-options.ts';
import {exitCodeOf} from '../exit-codes.ts';

interface Options extends GlobalOptions, VmOptions, RepositoryOption {
	readonly method?: MethodWishes['method'];
	readonly scratch?: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(vmOptions(yargs))
		.usage(
			'$0 doctor [VM]\n\nSays whether a backup of this VM would go well: its monitor and agent, its disks, which method ' +
				'would be used and why not the better one, scratch, what dead runs have left and, with -r, the repository. ' +
				'Changes nothing.',
		)
		.option('method', {choices: ['fleece', 'push'] as const, describe: 'As for backup', group: 'Backup:'})
		.option('scratch', {type: 'string', describe: 'As for backup', group: 'Backup:'})
		.example('$0 doctor web1 -r /srv/backup', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, signal, transcript}) => {
		const {method, scratch} = options;
		const repository = repositoryIfAny(options);
		const findings = await doctor({sockets: await socketsOf(options), signal, transcript, method, scratch, repository});
		if (json) printResult(toJson(findings));
		else printResult(findings.map(describe).join('\n'));
		return findings.some(({state}) => state === 'bad') ? exitCodeOf('FAILED') : undefined;
	});
}

const MARKS: Record<Finding['state'], string> = {good: 'ok', poor: 'POOR', bad: 'BAD'};

function describe({what, state, text, hint}: Finding): string {
	const line = `${MARKS[state].padEnd(5)} ${what.padEnd(11)} ${printable(text)}`;
	return hint === undefined ? line : `${line}\n${' '.repeat(18)}${printable(hint)}`;
}
