import {
	choicesOf,
	type CommandDefinition,
	membersOf,
	type OptionDefinition,
	type ProgramDefinition,
	takesVm,
} from './describe.ts';

/** A function for zsh that completes the program's words, with what each means. */
export function zshCompletion(program: ProgramDefinition): string {
	const first = [
		...program.commands.filter(({name}) => !name.includes(' ')).map(({name, describe}) => ({name, describe})),
		...program.families,
	];
	const families = program.families.map(({name}) => {
		return `\t'${name}')\n\t\tif (( CURRENT == 2 )); then\n\t\t\tlocal -a actions=(${list(membersOf(program, name))})\n\t\t\t_describe -t commands command actions\n\t\t\treturn\n\t\tfi\n\t\tcommand="$command $words[2]"\n\t\tshift words\n\t\t(( CURRENT-- ))\n\t\t;;`;
	});
	return `#compdef quiesce
# zsh completion of quiesce

_quiesce_vms() {
	local -a vms=(\${(f)"$(quiesce completion vms 2>/dev/null)"})
	compadd -a vms
}

_quiesce() {
	if (( CURRENT == 2 )); then
		local -a commands=(${list(first)})
		_describe -t commands command commands
		return
	fi
	shift words
	(( CURRENT-- ))
	local command=$words[1]
	case $command in
${families.join('\n')}
	esac
	case $command in
${program.commands.map(command => commandCase(command, program)).join('\n')}
	esac
}

if [[ $funcstack[1] == _quiesce ]]; then _quiesce "$@"; else compdef _quiesce quiesce; fi
`;
}

function list(entries: readonly {readonly name: string; readonly describe: string}[]): string {
	return entries.map(({name, describe}) => quoted(`${name}:${describe.replaceAll(':', '\\:')}`)).join(' ');
}

function commandCase(command: CommandDefinition, program: ProgramDefinition): string {
	const specs = [...command.options, ...program.options].map(option => quoted(optionSpec(option)));
	const choices = choicesOf(command);
	const rest = takesVm(command)
		? '*:VM:_quiesce_vms'
		: choices.length > 0
			? `*:argument:(${choices.join(' ')})`
			: '*:argument:_files';
	return `\t'${command.name}')\n\t\t_arguments ${[...specs, quoted('--help[Show help]'), quoted(rest)].join(' \\\n\t\t\t')}\n\t\t;;`;
}

function optionSpec({name, alias, describe, value}: OptionDefinition): string {
	const words = describe.replaceAll(/[[\]\\:]/g, '\\$&');
	const repeats = value?.repeats ? '*' : alias === undefined ? '' : `(-${alias} --${name})`;
	const values =
		value && value.choices.length > 0 ? `:${name}:(${value.choices.join(' ')})` : value ? `:${name}:_files` : '';
	return `${repeats}--${name}[${words}]${values}`;
}

function quoted(text: string): string {
	return `'${text.replaceAll("'", "'\\''")}'`;
}
