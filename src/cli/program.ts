import yargs, {type Argv, type CommandModule} from 'yargs';
import {UsageError} from '../errors.ts';
import {programVersion} from '../version.ts';
import {STDIN} from './archive/archive-name.ts';
import {fillIn, findConfig} from './config-options.ts';
import {type CommandEntry, commandTable} from './command-table.ts';
import {globalOptions} from './global-options.ts';
import {openLog} from './log.ts';
import {tellFailure} from './run-command.ts';
import {kebabCase, usageWords} from './usage-words.ts';

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
		const isLogged = own.some((word, at) => word === '--log=json' || (word === 'json' && own[at - 1] === '--log'));
		process.exitCode = tellFailure(error, {
			json: own.includes('--json'),
			debug: own.includes('--debug'),
			log: openLog(isLogged ? 'json' : 'silent'),
		});
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
	const program = globalOptions(yargs(argv))
		.scriptName('quiesce')
		.usage('$0 <command>\n\nQuiesced backups of running QEMU virtual machines, over QMP alone.')
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
				new UsageError(usageWords(message), {hint: 'quiesce --help, or --help after a command.'})
			);
		});
	// Before each command's work yargs composes a help text that nobody has asked for, which is a fifth of what a start takes.
	(program as unknown as YargsInternals).getInternalMethods().getUsageInstance().cacheHelpMessage = () => undefined;
	program.middleware(async options => {
		const {config: file} = options as {config?: string};
		// Which says itself what is wrong in it.
		if (options._[0] === 'config') return;
		const config = await findConfig(file);
		Object.assign(options, {config});
		if (config) fillIn(options, isOpen(program), config);
	}, true);
	const {commands: single, families} = commandTable();
	for (const entry of single) program.command(moduleOf(entry));
	for (const {name, describe, choose, commands} of families) {
		program.command(name, describe, family => {
			for (const entry of commands) family.command(moduleOf(entry));
			return family.demandCommand(1, choose).epilogue(EXIT_STATUS);
		});
	}
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

/** Of yargs 18.2. */
interface YargsInternals {
	getInternalMethods(): {getUsageInstance(): {cacheHelpMessage: () => void}};
}

function moduleOf([command, describe, load]: CommandEntry): CommandModule {
	return {
		command,
		describe,
		builder: async args => (await load()).build(args).epilogue(EXIT_STATUS),
		handler: async options => (await load()).run(options as never),
	};
}
