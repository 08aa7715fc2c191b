import {
	choicesOf,
	type CommandDefinition,
	membersOf,
	type OptionDefinition,
	type ProgramDefinition,
	takesVm,
} from './describe.ts';

/** A function for bash that completes the program's words. */
export function bashCompletion(program: ProgramDefinition): string {
	const first = [...program.commands.map(({name}) => name.split(' ')[0] ?? ''), ...program.options.map(spelt)];
	const families = program.families.map(({name}) => {
		const members = membersOf(program, name).map(member => member.name);
		return `\t\t'${name}') words='${members.join(' ')}' ;;`;
	});
	return `# bash completion of quiesce
_quiesce() {
	local cur prev words cword
	if declare -F _init_completion >/dev/null; then
		_init_completion -n := || return
	else
		COMPREPLY=()
		cur=\${COMP_WORDS[COMP_CWORD]}
		prev=\${COMP_WORDS[COMP_CWORD - 1]}
		words=("\${COMP_WORDS[@]}")
		cword=$COMP_CWORD
	fi
	local command= word at
	for ((at = 1; at < cword; at++)); do
		word=\${words[at]}
		# What follows is a command of its own.
		if [[ $word == -- ]]; then
			COMPREPLY=($(compgen -c -f -- "$cur"))
			return
		fi
		if [[ $word != -* && -z $command ]]; then
			command=$word
		elif [[ $word != -* && ' ${program.families.map(({name}) => name).join(' ')} ' == *" $command "* ]]; then
			command="$command $word"
		fi
	done
	local words= vms=
	case "$command $prev" in
${program.commands.flatMap(command => [...command.options, ...program.options].flatMap(option => valueCase(command, option))).join('\n')}
	esac
	case $command in
		'') words='${[...new Set(first)].join(' ')}' ;;
${families.join('\n')}
${program.commands.map(command => commandCase(command, program)).join('\n')}
	esac
	[[ -n $vms && $cur != -* ]] && words="$words $(quiesce completion vms 2>/dev/null)"
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
	[[ \${#COMPREPLY[@]} -gt 0 || $cur == -* ]] || compopt -o default
}
complete -F _quiesce quiesce
`;
}

function spelt({name}: OptionDefinition): string {
	return `--${name}`;
}

function valueCase(command: CommandDefinition, option: OptionDefinition): string[] {
	if (!option.value) return [];
	const names = [spelt(option), ...(option.alias === undefined ? [] : [`-${option.alias}`])];
	const pattern = names.map(name => `'${command.name} ${name}'`).join(' | ');
	const {choices} = option.value;
	const reply =
		choices.length > 0 ? `COMPREPLY=($(compgen -W '${choices.join(' ')}' -- "$cur"))` : 'compopt -o default';
	return [`\t\t${pattern}) ${reply}; return ;;`];
}

function commandCase(command: CommandDefinition, program: ProgramDefinition): string {
	const words = [...choicesOf(command), ...[...command.options, ...program.options].map(spelt), '--help'].join(' ');
	return `\t\t'${command.name}') words='${words}'${takesVm(command) ? ' vms=1' : ''} ;;`;
}
