import type {Argv} from 'yargs';
import {FREEZE_HOOKS} from '../../../freeze-hooks/kit.ts';
import {toJson} from '../../json.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {formatTable} from '../../table.ts';
import {printResult} from '../../terminal.ts';

export function build(yargs: Argv): Argv {
	return yargs
		.usage('$0 hooks list\n\nLists the scripts that quiet applications inside a guest for the time of a freeze.')
		.example('$0 hooks list --json', '');
}

export function run(options: GlobalOptions): Promise<void> {
	return runCommand(options, ({json}) => {
		const columns = [
			{title: 'HOOK', value: (hook: (typeof FREEZE_HOOKS)[number]) => hook.name},
			{title: 'FOR', value: (hook: (typeof FREEZE_HOOKS)[number]) => hook.application},
			{title: 'HOW', value: (hook: (typeof FREEZE_HOOKS)[number]) => hook.method},
		];
		printResult(json ? toJson(FREEZE_HOOKS) : formatTable(columns, FREEZE_HOOKS));
		return Promise.resolve(undefined);
	});
}
