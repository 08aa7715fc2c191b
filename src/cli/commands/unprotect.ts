import type {Argv} from 'yargs';
import {unprotect} from '../../operations/protect.ts';
import {repositoryOption} from '../repository-options.ts';
import {runMarking} from './protect.ts';

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage('$0 unprotect VM@POINT -r FOLDER\n\nLets the rules of `prune` apply to a point again.')
		.positional('point', {type: 'string', demandOption: true, describe: 'VM@POINT'})
		.example('$0 unprotect web1@2026-11-21T08-00-00Z -r /srv/backup', '');
}

export function run(options: Parameters<typeof runMarking>[0]): Promise<void> {
	return runMarking(options, unprotect);
}
