import type {Argv} from 'yargs';
import {type CommandEntry, commandTable} from '../command-table.ts';
import {globalOptions} from '../global-options.ts';

/** An option as its command defines it, or an argument that has a place. */
export interface OptionDefinition {
	/** Without dashes. */
	readonly name: string;
	/** One letter, if there is one. */
	readonly alias?: string;
	readonly describe: string;
	/** Undefined for one that is on or off. */
	readonly value?: {readonly choices: readonly string[]; readonly repeats: boolean};
	readonly default?: string;
	readonly group?: string;
}

/** A command as the program defines it, for all that is made of that. */
export interface CommandDefinition {
	/** `backup`, or `snapshot create`. */
	readonly name: string;
	/** What follows the name: `[vm..]`. */
	readonly arguments: string;
	readonly describe: string;
	/** How it is called, a line each. */
	readonly synopsis: readonly string[];
	readonly description: string;
	readonly positionals: readonly OptionDefinition[];
	readonly options: readonly OptionDefinition[];
	readonly examples: readonly {readonly command: string; readonly words: string}[];
}

export interface ProgramDefinition {
	readonly options: readonly OptionDefinition[];
	readonly commands: readonly CommandDefinition[];
	/** Names that more than one command begins with, and what for. */
	readonly families: readonly {readonly name: string; readonly describe: string}[];
}

/** What a call of `option` or `positional` says. */
interface Spec {
	readonly alias?: string;
	readonly type?: 'boolean' | 'string' | 'number';
	readonly choices?: readonly string[];
	readonly default?: string | number | boolean;
	readonly describe?: string;
	readonly array?: boolean;
	readonly group?: string;
}

interface Recorded {
	usage: string;
	readonly options: Map<string, Spec>;
	readonly positionals: Map<string, Spec>;
	readonly groups: Map<string, string>;
	readonly examples: {command: string; words: string}[];
}

/** Loads all commands. */
export async function describeProgram(): Promise<ProgramDefinition> {
	const {commands, families} = commandTable();
	const all: (readonly [family: string, entry: CommandEntry])[] = [
		...commands.map(entry => ['', entry] as const),
		...families.flatMap(({name, commands: members}) => members.map(entry => [`${name} `, entry] as const)),
	];
	const {options, groups} = record(globalOptions);
	return {
		options: Array.from(options, ([name, spec]) => definitionOf(name, spec, groups)),
		commands: await Promise.all(all.map(([family, entry]) => describe(family, entry))),
		families: families.map(({name, describe: words}) => ({name, describe: words})),
	};
}

/** The commands of a family, by their second words. */
export function membersOf(
	{commands}: ProgramDefinition,
	family: string,
): readonly {readonly name: string; readonly describe: string}[] {
	return commands
		.filter(({name}) => name.startsWith(`${family} `))
		.map(({name, describe: words}) => ({name: name.slice(family.length + 1), describe: words}));
}

/** Whether names of VMs are among its arguments. */
export function takesVm({positionals}: CommandDefinition): boolean {
	return positionals.some(({name}) => name === 'vm');
}

/** What its arguments can be, where that is known. */
export function choicesOf({positionals}: CommandDefinition): readonly string[] {
	return positionals.flatMap(({value}) => value?.choices ?? []);
}

async function describe(family: string, [usage, words, load]: CommandEntry): Promise<CommandDefinition> {
	const [name = '', ...rest] = usage.split(' ');
	const recorded = record((await load()).build);
	const [synopsis = '', ...description] = recorded.usage.split('\n\n');
	return {
		name: `${family}${name}`,
		arguments: rest.join(' '),
		describe: words,
		synopsis: synopsis.split('\n').map(named),
		description: description.map(named).join('\n\n'),
		positionals: Array.from(recorded.positionals, ([key, spec]) => definitionOf(key, spec, recorded.groups)),
		options: Array.from(recorded.options, ([key, spec]) => definitionOf(key, spec, recorded.groups)),
		examples: recorded.examples.map(({command, words: said}) => ({command: named(command), words: said})),
	};
}

function named(text: string): string {
	return text.replaceAll('$0', 'quiesce');
}

function definitionOf(name: string, spec: Spec, groups: ReadonlyMap<string, string>): OptionDefinition {
	const isFlag = spec.type === 'boolean';
	return {
		name,
		...(spec.alias === undefined ? {} : {alias: spec.alias}),
		describe: spec.describe ?? '',
		...(isFlag ? {} : {value: {choices: spec.choices ?? [], repeats: spec.array ?? false}}),
		...(isFlag || spec.default === undefined ? {} : {default: String(spec.default)}),
		group: spec.group ?? groups.get(name) ?? 'General:',
	};
}

/** Lets a builder define its command on something that only remembers. */
function record(build: (yargs: Argv) => Argv): Recorded {
	const recorded: Recorded = {usage: '', options: new Map(), positionals: new Map(), groups: new Map(), examples: []};
	const recorder = {
		usage: (text: string) => {
			recorded.usage = text;
			return recorder;
		},
		option: (name: string, spec: Spec) => {
			recorded.options.set(name, spec);
			return recorder;
		},
		positional: (name: string, spec: Spec) => {
			recorded.positionals.set(name, spec);
			return recorder;
		},
		group: (names: string | readonly string[], title: string) => {
			for (const name of [names].flat()) recorded.groups.set(name, title);
			return recorder;
		},
		example: (command: string, words: string) => {
			recorded.examples.push({command, words});
			return recorder;
		},
	};
	build(recorder as unknown as Argv);
	return recorded;
}
