import type {Argv} from 'yargs';
import {checkConfig} from '../../../operations/check-config.ts';
import {usualConfigFile} from '../../config-options.ts';
import {toJson} from '../../json.ts';
import {countOf} from '../../quantities.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {printNote, printResult, printWarning} from '../../terminal.ts';

interface Options extends GlobalOptions {
	readonly file?: string;
	readonly config?: string;
}

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			'$0 config check [FILE]\n\nReads a config file, and says of each line that is wrong why. Also tells of what is right and ' +
				'not to be found on this host at this moment: sockets, folders, programs.',
		)
		.positional('file', {type: 'string', describe: 'The file; else the one that all commands read'})
		.example('$0 config check', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, quiet}) => {
		const file = options.file ?? usualConfigFile(options.config);
		const {vms, groups, missing} = await checkConfig(file);
		if (json) printResult(toJson({messageType: 'summary', file, vms, groups, missing}));
		else for (const {setting, words} of missing) printWarning(`${setting}: ${words}`);
		if (!json && !quiet)
			printNote(`${file}: ${countOf(vms, 'VM')}, ${countOf(groups, 'group')}; nothing is wrong in it`);
		return undefined;
	});
}
