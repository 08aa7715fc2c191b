import type {CommandDefinition, OptionDefinition, ProgramDefinition} from './describe.ts';

/** A page of the manual, for man(7). */
export interface ManualPage {
	/** `quiesce-backup.1` */
	readonly file: string;
	readonly text: string;
}

/** One page for the program, and one for each command. */
export function manualPages(program: ProgramDefinition, version: string): ManualPage[] {
	return [mainPage(program, version), ...program.commands.map(command => commandPage(command, program, version))];
}

function mainPage({commands, options}: ProgramDefinition, version: string): ManualPage {
	const list = commands.map(
		({name, arguments: rest, describe}) => `.TP\n\\fB${roff(name)}\\fR ${roff(rest)}\n${roff(describe)}`,
	);
	return page('quiesce', version, [
		'.SH NAME',
		'quiesce \\- quiesced backups and snapshots of running QEMU virtual machines, over QMP alone',
		'.SH SYNOPSIS',
		'.B quiesce\n\\fICOMMAND\\fR [\\fIOPTION\\fR]...',
		'.SH COMMANDS',
		'Each has a page of its own, such as \\fBquiesce\\-backup\\fR(1).',
		...list,
		'.SH OPTIONS OF ALL COMMANDS',
		...options.map(optionEntry),
		'.SH FILES',
		'.TP\n.I /etc/quiesce.yaml\nthe config file; none is needed',
		'.SH SEE ALSO',
		'\\fBqemu\\-img\\fR(1), \\fBqemu\\-storage\\-daemon\\fR(1), \\fBqemu\\-ga\\fR(8)',
	]);
}

function commandPage(command: CommandDefinition, program: ProgramDefinition, version: string): ManualPage {
	const {name, describe, synopsis, description, positionals, options, examples} = command;
	const called = `quiesce-${name.replaceAll(' ', '-')}`;
	const groups = Map.groupBy(options, ({group}) => group ?? '');
	return page(called, version, [
		'.SH NAME',
		`${roff(called)} \\- ${roff(describe)}`,
		'.SH SYNOPSIS',
		synopsis.map(line => `.B ${roff(line)}`).join('\n.br\n'),
		...(description === ''
			? []
			: ['.SH DESCRIPTION', ...description.split('\n').map(line => (line === '' ? '.PP' : roff(line)))]),
		...(positionals.length === 0 ? [] : ['.SH ARGUMENTS', ...positionals.map(argumentEntry)]),
		...Array.from(groups, ([title, members]) => [
			`.SH ${roff(`${title.replace(/:$/, '')} options`.toUpperCase())}`,
			...members.map(optionEntry),
		]).flat(),
		'.SH OPTIONS OF ALL COMMANDS',
		...program.options.map(optionEntry),
		...(examples.length === 0
			? []
			: [
					'.SH EXAMPLES',
					...examples.map(({command: line, words}) => `.TP\n.B ${roff(line)}\n${words === '' ? '\\&' : roff(words)}`),
				]),
		'.SH SEE ALSO',
		'\\fBquiesce\\fR(1)',
	]);
}

function page(name: string, version: string, lines: readonly string[]): ManualPage {
	const head = `.TH ${roff(name.toUpperCase())} 1 "" "quiesce ${roff(version)}" "quiesce"`;
	return {file: `${name}.1`, text: `${[head, '.nh', '.ad l', ...lines].join('\n')}\n`};
}

function argumentEntry({name, describe}: OptionDefinition): string {
	return `.TP\n\\fI${roff(name.toUpperCase())}\\fR\n${roff(describe)}`;
}

function optionEntry({name, alias, describe, value, default: usual}: OptionDefinition): string {
	const names = [...(alias === undefined ? [] : [`-${alias}`]), `--${name}`]
		.map(one => `\\fB${roff(one)}\\fR`)
		.join(', ');
	const argument = value
		? ` \\fI${roff(value.choices.length > 0 ? value.choices.join('|') : name.toUpperCase())}\\fR`
		: '';
	const more = usual === undefined ? '' : ` (default ${usual})`;
	return `.TP\n${names}${argument}\n${roff(`${describe}${more}`)}`;
}

/** Text in which nothing is an instruction. */
function roff(text: string): string {
	return text
		.replaceAll('\\', '\\e')
		.replaceAll('-', '\\-')
		.replaceAll('…', '...')
		.replaceAll('`', '\\(ga')
		.replaceAll("'", '\\(aq')
		.replaceAll('"', '\\(dq')
		.replaceAll(/^\./gm, '\\&.');
}
