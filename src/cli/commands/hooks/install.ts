import type {Argv} from 'yargs';
import {UsageError} from '../../../errors.ts';
import {AGENT_SETTINGS, FREEZE_HOOKS} from '../../../freeze-hooks/kit.ts';
import {type InstalledFile, installHooks} from '../../../freeze-hooks/install.ts';
import {toJson} from '../../json.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {printNote, printResult} from '../../terminal.ts';

interface Options extends GlobalOptions {
	readonly hook?: readonly string[];
	readonly root?: string;
	readonly replace: boolean;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			'$0 hooks install HOOK… --root FOLDER\n\nPuts hooks into a guest, with the script that calls them, where its agent looks for ' +
				'them: /etc/qemu/fsfreeze-hook. Settings that are there are kept.',
		)
		.positional('hook', {
			type: 'string',
			array: true,
			choices: FREEZE_HOOKS.map(({name}) => name),
			describe: 'Names of `hooks list`',
		})
		.option('root', {
			type: 'string',
			nargs: 1,
			describe: "The root of the guest's files: / inside of it, or where its disk is mounted",
			group: 'Hooks:',
		})
		.option('replace', {
			type: 'boolean',
			default: false,
			describe: 'Replace files that are there and are others; they are kept as NAME.orig',
			group: 'Hooks:',
		})
		.option('dry-run', {
			type: 'boolean',
			default: false,
			describe: 'Say what would be done, and do nothing',
			group: 'Hooks:',
		})
		.example('$0 hooks install mysql redis --root /mnt/guest --replace', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, quiet}) => {
		const {root, hook: hooks = [], replace, dryRun} = options;
		if (hooks.length === 0) throw new UsageError('no hook is named', {hint: 'quiesce hooks list.'});
		if (root === undefined) throw new UsageError('--root is missing: / inside the guest, or where its disk is mounted');
		const files = await installHooks({root, hooks, replace, dryRun});
		if (json) printResult(toJson({messageType: 'summary', dryRun, files}));
		else for (const file of files) printResult(lineOf(file));
		if (!json && !quiet && !dryRun) {
			printNote(hintOf(files));
		}
		return undefined;
	});
}

/** An agent that has settings of its own may call no hook. */
function hintOf(files: readonly InstalledFile[]): string {
	const isKept = files.some(({path, change}) => path.endsWith(AGENT_SETTINGS) && change === 'kept');
	const first = isKept
		? `See that ${AGENT_SETTINGS} has a line fsfreeze-hook=, and start the agent again.`
		: 'The agent calls them once it is started again.';
	return `${first} Then try it, from the host: quiesce freeze VM -- true`;
}

function lineOf({path, change}: InstalledFile): string {
	return `${change.padEnd('unchanged'.length)}  ${path}`;
}
