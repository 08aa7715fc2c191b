import type {Argv} from 'yargs';
import {DISPATCHER, findHook, readScript, SETTINGS} from '../../../freeze-hooks/kit.ts';
import {toJson} from '../../json.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {printResult} from '../../terminal.ts';

interface Options extends GlobalOptions {
	readonly hook: string;
}

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			`$0 hooks show HOOK\n\nPrints a script: a hook of \`hooks list\`, ${DISPATCHER} which calls them, or its settings, ${SETTINGS}.`,
		)
		.positional('hook', {type: 'string', demandOption: true, describe: 'Its name'})
		.example('$0 hooks show mysql', '')
		.example('$0 hooks show template > /etc/qemu/fsfreeze-hook.d/shop', 'to begin one for another application');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json}) => {
		const {hook: name} = options;
		const text = await readScript(name === DISPATCHER || name === SETTINGS ? name : findHook(name).name);
		printResult(json ? toJson({name, text}) : text);
		return undefined;
	});
}
