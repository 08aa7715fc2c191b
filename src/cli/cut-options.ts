import type {Argv} from 'yargs';
import type {QuiesceRequest} from '../operations/with-quiescer.ts';
import {parseDuration} from './quantities.ts';

/** Those of every command that cuts the disks of a VM. */
export interface CutOptions {
	readonly quiesce: QuiesceRequest['quiesce'];
	readonly disk?: readonly string[] | undefined;
	readonly exclude?: readonly string[] | undefined;
	readonly freezeTimeout: string;
}

/** They belong to no group of the help yet. */
export function cutOptions<Options>(yargs: Argv<Options>): Argv<Options> {
	return yargs
		.option('quiesce', {
			choices: ['require', 'try', 'never'] as const,
			default: 'try',
			describe: 'Whether to freeze the guest: fail if it cannot be, say so, or do not',
		})
		.option('disk', {type: 'string', array: true, nargs: 1, describe: 'Only this disk (may be repeated)'})
		.option('exclude', {type: 'string', array: true, nargs: 1, describe: 'All disks but this one (may be repeated)'})
		.option('freeze-timeout', {type: 'string', default: '60s', describe: 'How long the freeze and its hooks may take'});
}

/** How the guest is to be frozen. */
export function quiesceWishes({
	quiesce,
	freezeTimeout,
}: CutOptions): Pick<QuiesceRequest, 'quiesce' | 'freezeTimeoutMs'> {
	return {quiesce, freezeTimeoutMs: parseDuration(freezeTimeout, '--freeze-timeout')};
}
