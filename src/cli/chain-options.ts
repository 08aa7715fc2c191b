import type {Argv} from 'yargs';
import type {ChainPace} from '../operations/chain-work.ts';
import {parseBytes, parseDuration} from './quantities.ts';

/** The options of what merges layers of chains. */
export interface ChainOptions {
	readonly disk?: readonly string[] | undefined;
	readonly speed?: string | undefined;
	readonly deadline?: string | undefined;
}

export function chainOptions<Options>(yargs: Argv<Options>, group: string): Argv<Options & ChainOptions> {
	return yargs
		.option('disk', {
			type: 'string',
			array: true,
			requiresArg: true,
			describe: 'Only this disk; may be repeated',
			group,
		})
		.option('speed', {type: 'string', describe: 'Bytes per second for each disk, as in 50M', group})
		.option('deadline', {
			type: 'string',
			describe: 'Give up if it is not done by then: 90s, 30m. At half of it --speed is lifted',
			group,
		});
}

export function paceOf({speed, deadline}: ChainOptions): ChainPace {
	return {
		speed: speed === undefined ? undefined : parseBytes(speed, '--speed'),
		deadlineMs: deadline === undefined ? undefined : parseDuration(deadline, '--deadline'),
	};
}
