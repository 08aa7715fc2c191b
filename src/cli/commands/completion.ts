import type {Argv} from 'yargs';
import type {Config} from '../../config/config-schema.ts';
import {bashCompletion} from '../definitions/bash.ts';
import {describeProgram} from '../definitions/describe.ts';
import {fishCompletion} from '../definitions/fish.ts';
import {zshCompletion} from '../definitions/zsh.ts';
import {toJson} from '../json.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions {
	readonly shell: 'bash' | 'zsh' | 'fish' | 'vms';
	readonly config?: Config;
}

const SCRIPTS = {bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion};

/** What a shell can take for one word, and leaves as it is. */
const PLAIN_NAME = /^[\w.@%+,:-]+$/;

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			'$0 completion SHELL\n\nPrints what lets bash, zsh or fish complete commands, options, their values and names of VMs. ' +
				'`vms` prints those names, which the shells ask for.',
		)
		.positional('shell', {
			choices: ['bash', 'zsh', 'fish', 'vms'] as const,
			demandOption: true,
			describe: 'For which shell; or what one asks for',
		})
		.example('$0 completion bash > /etc/bash_completion.d/quiesce', '')
		.example('$0 completion zsh > /usr/local/share/zsh/site-functions/_quiesce', '')
		.example('$0 completion fish > /etc/fish/completions/quiesce.fish', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json}) => {
		const {shell, config} = options;
		const text = shell === 'vms' ? await namesOfVms(config) : SCRIPTS[shell](await describeProgram());
		printResult(json ? toJson({shell, text}) : text);
		return undefined;
	});
}

async function namesOfVms(config: Config | undefined): Promise<string> {
	const {discover} = await import('../../operations/discover.ts');
	const running = (await discover()).flatMap(({name}) => name ?? []);
	const names = new Set([...Object.keys(config?.vms ?? {}), ...running]);
	return [...names]
		.filter(name => PLAIN_NAME.test(name))
		.map(name => `${name}\n`)
		.join('');
}
