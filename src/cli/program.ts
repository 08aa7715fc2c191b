import yargs, {type Argv, type CommandModule} from 'yargs';
import {UsageError} from '../errors.ts';
import {programVersion} from '../version.ts';
import {STDIN} from './archive/archive-name.ts';
import {fillIn, findConfig} from './config-options.ts';
import {LOG_LEVELS} from './log.ts';
import {printError} from './run-command.ts';

/** What a file of `commands/` exports: its options, and what it does with them. */
interface Command {
	readonly build: (yargs: Argv) => Argv;
	readonly run: (options: never) => Promise<void>;
}

/** Each command is loaded when it is the one that was called. */
type CommandEntry = readonly [usage: string, describe: string, load: () => Promise<Command>];

const SNAPSHOT_COMMANDS: readonly CommandEntry[] = [
	['create [vm..]', 'Take a snapshot: the guest goes on in new images', () => import('./commands/snapshot/create.ts')],
	[
		'list [vm]',
		'List the snapshots of a VM, and what its disks are made of',
		() => import('./commands/snapshot/list.ts'),
	],
	['delete [vm] [snapshot]', 'Delete a snapshot', () => import('./commands/snapshot/delete.ts')],
];

const HOOK_COMMANDS: readonly CommandEntry[] = [
	['list', 'List the hooks there are', () => import('./commands/hooks/list.ts')],
	['show <hook>', 'Print a hook', () => import('./commands/hooks/show.ts')],
	['install [hook..]', 'Put hooks into a guest', () => import('./commands/hooks/install.ts')],
];

const CONFIG_COMMANDS: readonly CommandEntry[] = [
	['check [file]', 'Say what is wrong in a config file', () => import('./commands/config/check.ts')],
];

const COMMANDS: readonly CommandEntry[] = [
	['discover', 'List the running QEMU VMs of this host, and their sockets', () => import('./commands/discover.ts')],
	['inspect [vm]', 'Show the disks, chains, jobs and abilities of a VM', () => import('./commands/inspect.ts')],
	['backup [vm..]', 'Take a point of VMs into a repository', () => import('./commands/backup.ts')],
	['expose [vm]', 'Show the disks of a VM over NBD, also around a command', () => import('./commands/expose.ts')],
	['export [vm]', 'Write the disks of a VM, or a point of it, to one file', () => import('./commands/export.ts')],
	['import <archive>', 'Make a point of an archive', () => import('./commands/import.ts')],
	['list [vm]', 'List the points of a repository', () => import('./commands/list.ts')],
	['show <point>', 'Show all that is known of a point', () => import('./commands/show.ts')],
	['verify [point]', 'Check points against their checksums', () => import('./commands/verify.ts')],
	['prune [point]', 'Remove points that no rule keeps, or one by its name', () => import('./commands/prune.ts')],
	['protect <point>', 'Keep a point whatever the rules say', () => import('./commands/protect.ts')],
	['unprotect <point>', 'Let the rules apply to a point again', () => import('./commands/unprotect.ts')],
	['restore <point>', 'Bring the disks of a point back', () => import('./commands/restore.ts')],
	['serve <source>', 'Serve a point or an archive over NBD', () => import('./commands/serve.ts')],
	['freeze [vm..]', "Freeze a guest's file systems, also around a command", () => import('./commands/freeze.ts')],
	['revert <snapshot>', 'Bring a VM back to a snapshot', () => import('./commands/revert.ts')],
	['commit [vm]', 'Merge overlays of disks into what they lie on', () => import('./commands/commit.ts')],
	['stream [vm]', 'Pull what disks lie on up into them', () => import('./commands/stream.ts')],
	['jobs [vm] [action..]', 'List, watch and change the jobs of a VM', () => import('./commands/jobs.ts')],
	['events [vm..]', 'Print the events of VMs as they come', () => import('./commands/events.ts')],
	[
		'transaction [vm] [file]',
		'Carry out a transaction that a file describes',
		() => import('./commands/transaction.ts'),
	],
	['qmp [vm] [words..]', 'Talk to the monitor of a VM', () => import('./commands/qmp.ts')],
	['recover [vm]', 'Undo what killed runs have left', () => import('./commands/recover.ts')],
	['doctor [vm]', 'Check whether a backup of a VM would go well, and how', () => import('./commands/doctor.ts')],
	['thaw [vm]', "Thaw a guest's file systems", () => import('./commands/thaw.ts')],
];

const EXIT_STATUS =
	'Exit status: 0 done; 1 failed; 2 wrong use; 10 no repository; 11 locked; 20 VM not reached; 21 QEMU refused; ' +
	'22 job failed; 23 VM lost; 24 guest agent; 30 damaged; 130 cancelled. See docs/json-and-exit-codes.md.';

/** Sets `process.exitCode`. */
export async function runProgram(argv: readonly string[]): Promise<void> {
	try {
		// yargs does not tell an empty command from none, as a script's empty variable makes one.
		if (argv.at(-1) === '--') throw new UsageError('no command is named after --');
		await parser(asYargsReads(argv)).parseAsync();
	} catch (error) {
		// What follows is for the command that it runs.
		const own = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
		process.exitCode = printError(error, {json: own.includes('--json'), debug: own.includes('--debug')});
	}
}

/**
 * yargs would take the next word, such as the name of a VM, for the value of an option that may stand alone. And of a lone dash
 * it makes an empty word, unless that is the value of an option.
 */
function asYargsReads(argv: readonly string[]): string[] {
	const end = argv.includes('--') ? argv.indexOf('--') : argv.length;
	return argv.map((word, at) => {
		if (at >= end) return word;
		if (word === '--memory') return '--memory=live';
		return word === '-' && !['-o', '--output'].includes(argv[at - 1] ?? '') ? STDIN : word;
	});
}

function parser(argv: readonly string[]): Argv {
	const program = yargs(argv)
		.scriptName('quiesce')
		.usage('$0 <command>\n\nQuiesced backups of running QEMU virtual machines, over QMP alone.')
		.option('json', {type: 'boolean', default: false, describe: 'Print JSON on stdout', group: 'Output:'})
		.option('quiet', {
			alias: 'q',
			type: 'boolean',
			default: false,
			describe: 'No progress and no words but warnings',
			group: 'Output:',
		})
		.option('debug', {type: 'boolean', default: false, describe: 'Show where an error comes from', group: 'Output:'})
		.option('log', {choices: LOG_LEVELS, default: 'silent', describe: 'Log JSON lines on stderr', group: 'Output:'})
		.option('config', {
			type: 'string',
			nargs: 1,
			describe: 'The config file; else $QUIESCE_CONFIG, else /etc/quiesce.yaml if it is there',
			group: 'Output:',
		})
		.option('transcript', {type: 'string', describe: 'Append to FILE all that goes over the sockets', group: 'Output:'})
		.parserConfiguration({'boolean-negation': false, 'populate--': true, 'strip-aliased': true, 'strip-dashed': true})
		.strictCommands()
		.strict()
		.demandCommand(1, 'no command is named')
		.recommendCommands()
		.version(programVersion())
		.wrap(Math.min(100, process.stdout.columns || 80))
		.updateStrings({'Options:': 'General:', 'Positionals:': 'Arguments:'})
		.epilogue(EXIT_STATUS)
		.exitProcess(false)
		.fail((message, error) => {
			// yargs hands over its own words, or what a command has thrown.
			throw (
				(error as Error | undefined) ??
				new UsageError(asTyped(message), {hint: 'quiesce --help, or --help after a command.'})
			);
		});
	program.middleware(async options => {
		const {config: file} = options as {config?: string};
		// Which says itself what is wrong in it.
		if (options._[0] === 'config') return;
		const config = await findConfig(file);
		Object.assign(options, {config});
		if (config) fillIn(options, isOpen(program), config);
	}, true);
	for (const entry of COMMANDS) program.command(moduleOf(entry));
	program.command('snapshot', 'Take snapshots of a running VM', snapshot => {
		for (const entry of SNAPSHOT_COMMANDS) snapshot.command(moduleOf(entry));
		return snapshot.demandCommand(1, 'say what to do: create, list or delete').epilogue(EXIT_STATUS);
	});
	program.command('config', 'Look after the config file', config => {
		for (const entry of CONFIG_COMMANDS) config.command(moduleOf(entry));
		return config.demandCommand(1, 'say what to do: check').epilogue(EXIT_STATUS);
	});
	program.command('hooks', 'Quiet applications inside a guest when it is frozen', hooks => {
		for (const entry of HOOK_COMMANDS) hooks.command(moduleOf(entry));
		return hooks.demandCommand(1, 'say what to do: list, show or install').epilogue(EXIT_STATUS);
	});
	return program;
}

/** Whether an option was not given: it has its default, or none. */
function isOpen(program: Argv): (option: string) => boolean {
	const {argv = {}, defaulted = {}} = (program as unknown as {parsed?: Parsed}).parsed ?? {};
	return option => argv[option] === undefined || kebabCase(option) in defaulted || option in defaulted;
}

/** Of what yargs knows while it parses, what its types leave out. */
interface Parsed {
	readonly argv: Readonly<Record<string, unknown>>;
	readonly defaulted: Readonly<Record<string, boolean>>;
}

function kebabCase(name: string): string {
	return name.replaceAll(/[A-Z]/g, letter => `-${letter.toLowerCase()}`);
}

function moduleOf([command, describe, load]: CommandEntry): CommandModule {
	return {
		command,
		describe,
		builder: async args => (await load()).build(args).epilogue(EXIT_STATUS),
		handler: async options => (await load()).run(options as never),
	};
}

/** yargs names unknown options in camel case. */
function asTyped(message: string): string {
	if (!message.startsWith('Unknown argument')) return message;
	return kebabCase(message);
}
