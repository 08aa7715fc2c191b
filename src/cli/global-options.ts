import type {Argv} from 'yargs';
import {LOG_CHOICES} from './log.ts';

/** Those that every command has. */
export function globalOptions<Options>(yargs: Argv<Options>): Argv<Options> {
	return yargs
		.option('json', {type: 'boolean', default: false, describe: 'Print JSON on stdout', group: 'Output:'})
		.option('quiet', {
			alias: 'q',
			type: 'boolean',
			default: false,
			describe: 'No progress and no words but warnings',
			group: 'Output:',
		})
		.option('debug', {type: 'boolean', default: false, describe: 'Show where an error comes from', group: 'Output:'})
		.option('log', {choices: LOG_CHOICES, default: 'silent', describe: 'Log JSON lines on stderr', group: 'Output:'})
		.option('config', {
			type: 'string',
			nargs: 1,
			describe: 'The config file; else $QUIESCE_CONFIG, else /etc/quiesce.yaml if it is there',
		})
		.option('transcript', {
			type: 'string',
			describe: 'Append to FILE all that goes over the sockets',
			group: 'Output:',
		});
}
