import {mkdir, mkdtemp, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {afterAll, beforeAll, expect, test} from 'vitest';
import {output} from '../guest/command.ts';
import {jsonLines, runQuiesce} from './run-quiesce.ts';

let folder: string;

beforeAll(async () => {
	folder = await mkdtemp(join(tmpdir(), 'qsc-shell-'));
	await mkdir(join(folder, 'functions'));
	for (const [shell, file] of [
		['bash', 'quiesce.bash'],
		['zsh', 'functions/_quiesce'],
		['fish', 'quiesce.fish'],
	] as const) {
		const {code, stdout} = await runQuiesce(['completion', shell]);
		expect(code).toBe(0);
		await writeFile(join(folder, file), stdout);
	}
	// Shells ask it for VMs, of which they get one.
	await writeFile(join(folder, 'quiesce'), '#!/bin/sh\n[ "$*" = "completion vms" ] && echo web-of-test\n', {
		mode: 0o755,
	});
});

afterAll(() => rm(folder, {recursive: true, force: true}));

/** What bash would offer for the last word. */
async function bash(...words: string[]): Promise<string[]> {
	const script =
		'PATH=$1:$PATH; . "$1/quiesce.bash"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _quiesce; ' +
		'printf "%s\\n" "${COMPREPLY[@]}"';
	return (await output('bash', ['-c', script, 'bash', folder, ...words])).split('\n').filter(word => word !== '');
}

async function fish(line: string): Promise<string[]> {
	const offered = await output('fish', [
		...['--no-config', '-c', 'set PATH $argv[1] $PATH; source $argv[1]/quiesce.fish; complete -C $argv[2]'],
		...[folder, line],
	]);
	return offered.split('\n').flatMap(one => one.split('\t')[0] || []);
}

/** What zsh makes of a line, at whose end the tabulator is pressed: another key then writes the line to a file. */
async function zsh(line: string): Promise<string> {
	const script = String.raw`
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PATH=$1:\$PATH; fpath=($1/functions \$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w shell "show() { print -rn -- \"\$BUFFER\" >$1/line; exit }; zle -N show; bindkey '^X' show"
zpty -w -n shell "$2"$'\t\C-x'
while zpty -r shell seen; do :; done
`;
	await output('timeout', ['30', 'zsh', '-f', '-c', script, 'zsh', folder, line]);
	return readFile(join(folder, 'line'), 'utf8');
}

test.each([
	[['quiesce', 'ba'], ['backup']],
	[
		['quiesce', 'snapshot', ''],
		['create', 'list', 'delete'],
	],
	[
		['quiesce', 'backup', '--quie'],
		['--quiesce', '--quiet'],
	],
	[
		['quiesce', 'backup', '--quiesce', ''],
		['require', 'try', 'never'],
	],
	[['quiesce', 'snapshot', 'create', '--me'], ['--memory']],
	[['quiesce', 'backup', 'web-'], ['web-of-test']],
	[['quiesce', 'completion', 'b'], ['bash']],
])('bash completes %j', async (words, offered) => {
	expect(await bash(...words)).toEqual(offered);
});

test.each([
	['quiesce back', ['backup']],
	['quiesce snapshot ', ['create', 'delete', 'list']],
	['quiesce backup --quie', ['--quiesce', '--quiet']],
	['quiesce backup --quiesce ', ['never', 'require', 'try']],
	['quiesce backup web-of', ['web-of-test']],
])('fish completes %j', async (line, offered) => {
	expect((await fish(line)).sort()).toEqual(offered);
});

test.each([
	['quiesce disc', 'quiesce discover '],
	['quiesce snapshot del', 'quiesce snapshot delete '],
	['quiesce backup --quiesce req', 'quiesce backup --quiesce require '],
	['quiesce backup web-of', 'quiesce backup web-of-test '],
])('zsh completes %j', async (line, completed) => {
	expect(await zsh(line)).toBe(completed);
});

test('VMs of the config file are offered, those apart whose names a shell would read', async () => {
	const config = join(folder, 'q.yaml');
	await writeFile(config, JSON.stringify({vms: {'db-of-test': null, '$(id)': null, 'a b': null}}), {mode: 0o600});
	const {stdout} = await runQuiesce(['completion', 'vms', '--config', config]);
	expect(stdout.split('\n')).toContain('db-of-test');
	expect(stdout).not.toMatch(/id|a b/);
});

test('manual pages are written for the program and for each command, without a complaint of groff', async () => {
	const pages = join(folder, 'man1');
	const {files} = jsonLines(await runQuiesce(['manual', pages, '--json']))[0] as unknown as {files: string[]};
	expect((await readdir(pages)).sort()).toEqual(files.map(file => file.slice(pages.length + 1)).sort());
	expect(files).toContain(join(pages, 'quiesce.1'));
	expect(files).toContain(join(pages, 'quiesce-snapshot-create.1'));
	const complaints = await output('sh', ['-c', 'groff -man -Tutf8 -ww -rF0 "$@" 2>&1 >/dev/null', 'sh', ...files]);
	expect(complaints).toBe('');
	expect(await readFile(join(pages, 'quiesce-backup.1'), 'utf8')).toContain('\\fB\\-\\-full\\-every\\fR');
});
