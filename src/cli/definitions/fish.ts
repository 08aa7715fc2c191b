import {
	choicesOf,
	type CommandDefinition,
	membersOf,
	type OptionDefinition,
	type ProgramDefinition,
	takesVm,
} from './describe.ts';

/** Lines for fish that complete the program's words, with what each means. */
export function fishCompletion(program: ProgramDefinition): string {
	const single = program.commands.filter(({name}) => !name.includes(' '));
	const names = [...single, ...program.families].map(({name}) => name).join(' ');
	const none = quoted(`not __fish_seen_subcommand_from ${names}`);
	return [
		'# fish completion of quiesce',
		...[...single, ...program.families].map(
			({name, describe}) => `complete -c quiesce -f -n ${none} -a ${name} -d ${quoted(describe)}`,
		),
		...program.commands.filter(({name}) => name.includes(' ')).map(command => memberLine(command, program)),
		...program.commands.flatMap(commandLines),
		...program.options.map(option => `complete -c quiesce ${optionWords(option)}`),
		'',
	].join('\n');
}

function memberLine({name, describe}: CommandDefinition, program: ProgramDefinition): string {
	const [family = '', member = ''] = name.split(' ');
	const members = membersOf(program, family).map(one => one.name);
	const where = `__fish_seen_subcommand_from ${family}; and not __fish_seen_subcommand_from ${members.join(' ')}`;
	return `complete -c quiesce -f -n ${quoted(where)} -a ${member} -d ${quoted(describe)}`;
}

function commandLines(command: CommandDefinition): string[] {
	const where = quoted(
		command.name
			.split(' ')
			.map(word => `__fish_seen_subcommand_from ${word}`)
			.join('; and '),
	);
	const choices = choicesOf(command);
	return [
		...(takesVm(command) ? [`complete -c quiesce -f -n ${where} -a '(quiesce completion vms 2>/dev/null)'`] : []),
		...(choices.length > 0 ? [`complete -c quiesce -f -n ${where} -a ${quoted(choices.join(' '))}`] : []),
		...command.options.map(option => `complete -c quiesce -n ${where} ${optionWords(option)}`),
	];
}

function optionWords({name, alias, describe, value}: OptionDefinition): string {
	return [
		`-l ${name}`,
		...(alias === undefined ? [] : [`-s ${alias}`]),
		...(value ? [value.choices.length > 0 ? `-x -a ${quoted(value.choices.join(' '))}` : '-r'] : []),
		`-d ${quoted(describe)}`,
	].join(' ');
}

function quoted(text: string): string {
	return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
