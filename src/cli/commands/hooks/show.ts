import type {Argv} from 'yargs';
import {AGENT_SETTINGS, DISPATCHER, readScript, SCRIPTS, SETTINGS} from '../../../freeze-hooks/kit.ts';
import {toJson} from '../../json.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {printResult} from '../../terminal.ts';

interface Options extends GlobalOptions {
	readonly hook: string;
}

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			`$0 hooks show HOOK\n\nPrints a script: a hook of \`hooks list\`, ${DISPATCHER} which calls them, its settings, ${SETTINGS}, or those of the agent, ${AGENT_SETTINGS}.`,
		)
		.positional('hook', {type: 'string', demandOption: true, choices: SCRIPTS, describe: 'Its name'})
		.example('$0 hooks show mysql', '')
		.example('$0 hooks show template > /etc/qemu/fsfreeze-hook.d/shop', 'to begin one for another application');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json}) => {
		const {hook: name} = options;
		const text = await readScript(name);
		printResult(json ? toJson({name, text}) : text);
		return undefined;
	});
}
