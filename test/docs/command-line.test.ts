import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {beforeAll, expect, test} from 'vitest';
import {exitCodeOf} from '../../src/cli/exit-codes.ts';
import type {ErrorCode} from '../../src/errors.ts';
import {runQuiesce} from '../cli/run-quiesce.ts';
import {codeBlocks, pages, project, proseOf, readPage} from './pages.ts';

const PAGE_OF: Readonly<Record<string, string>> = {
	'discover': 'docs/inspect-and-discover.md',
	'inspect': 'docs/inspect-and-discover.md',
	'doctor': 'docs/doctor.md',
	'backup': 'docs/back-up.md',
	'expose': 'docs/expose.md',
	'export': 'docs/export.md',
	'import': 'docs/export.md',
	'list': 'docs/restore.md',
	'show': 'docs/restore.md',
	'verify': 'docs/verify.md',
	'prune': 'docs/prune.md',
	'protect': 'docs/prune.md',
	'unprotect': 'docs/prune.md',
	'restore': 'docs/restore.md',
	'serve': 'docs/serve.md',
	'snapshot create': 'docs/snapshot.md',
	'snapshot list': 'docs/snapshot.md',
	'snapshot delete': 'docs/snapshot.md',
	'revert': 'docs/revert.md',
	'commit': 'docs/commit-and-stream.md',
	'stream': 'docs/commit-and-stream.md',
	'jobs': 'docs/commit-and-stream.md',
	'recover': 'docs/recover.md',
	'freeze': 'docs/freeze-and-thaw.md',
	'thaw': 'docs/freeze-and-thaw.md',
	'completion': 'docs/unattended.md',
	'manual': 'docs/unattended.md',
	'config check': 'docs/config.md',
	'hooks list': 'docs/freeze-hooks.md',
	'hooks show': 'docs/freeze-hooks.md',
	'hooks install': 'docs/freeze-hooks.md',
	'qmp': 'docs/monitor.md',
	'events': 'docs/monitor.md',
	'transaction': 'docs/monitor.md',
};
/** Where options are told that many commands have. */
const SHARED = ['docs/json-and-exit-codes.md', 'docs/inspect-and-discover.md', 'docs/off.md'];
/** Those of QEMU's tools, of `bin/matrix` and of `npm run endurance`, of which the pages speak. */
const FOREIGN = ['--chardev', '--shrink', '--iothreads', '--seed'];

/** By command, and by the empty name those of all. */
const options = new Map<string, readonly string[]>();

beforeAll(() => {
	// Which test/cli/help.test.ts keeps true.
	for (const command of ['', ...Object.keys(PAGE_OF)]) {
		const name = ['quiesce', ...command.split(' ').filter(word => word !== '')].join('-');
		const stdout = readFileSync(join(project, 'fixtures/help', `${name}.txt`), 'utf8');
		const found = stdout.matchAll(/^ +(?:-\w, )?(?<option>--[a-z][a-z-]*)(?= |$)/gm);
		options.set(command, [...new Set(Array.from(found, match => match.groups!['option']!))]);
	}
});

test('every command of the program has a page', async () => {
	const {stdout} = await runQuiesce(['--help']);
	const commands = Array.from(stdout.matchAll(/^ {2}quiesce (?<command>[a-z]+)/gm), match => match.groups!['command']!);
	const first = Object.keys(PAGE_OF).map(command => command.split(' ')[0]!);
	expect(commands.sort()).toEqual([...new Set(first)].sort());
});

test.each(Object.entries(PAGE_OF))('every option of %s is told in %s, or where those of all are', (command, page) => {
	const text = [page, ...SHARED].map(readPage).join('\n');
	expect(options.get(command)!.length).toBeGreaterThan(5);
	expect(options.get(command)!.filter(option => !new RegExp(`${option}(?![a-z-])`).test(text))).toEqual([]);
});

test.each(pages)('%s speaks only of options that there are', page => {
	const known = [...new Set([...options.values()].flat()), ...FOREIGN];
	const told = Array.from(proseOf(page).matchAll(/`(?<option>--[a-z][a-z-]*)/g), match => match.groups!['option']!);
	expect(told.filter(option => !known.includes(option))).toEqual([]);
});

test.each(pages)('%s calls the program only as it can be called', page => {
	const lines = [...codeBlocks(page, 'sh'), ...codeBlocks(page, 'console')].flatMap(code => code.split('\n'));
	const calls = lines.flatMap(line => /^(?:\$ )?quiesce (?<call>.*)$/.exec(line)?.groups?.['call'] ?? []);
	for (const call of calls) {
		const words = (call.split(' -- ')[0] ?? '').split(' ');
		const [one = '', two = ''] = words;
		const command = options.has(`${one} ${two}`) ? `${one} ${two}` : one;
		const used = words.flatMap(word => /^--[a-z][a-z-]*/.exec(word)?.[0] ?? []);
		if (command.startsWith('-')) continue;
		expect(options.has(command), call).toBe(true);
		expect(
			used.filter(option => !options.get(command)!.includes(option)),
			call,
		).toEqual([]);
	}
});

test('the table of exit codes is that of the program', () => {
	const rows = readPage('docs/json-and-exit-codes.md').matchAll(/^\| (?<status>\d+) +\| `(?<code>[A-Z_]+)` +\|/gm);
	const told = Array.from(rows, ({groups}) => [groups!['code']!, Number(groups!['status'])] as const);
	const source = readFileSync(join(project, 'src/cli/exit-codes.ts'), 'utf8');
	const codes = Array.from(
		source.matchAll(/^\t(?<code>[A-Z_]+): \d+,$/gm),
		match => match.groups!['code'] as ErrorCode,
	);
	expect(codes.length).toBeGreaterThan(5);
	// A signal has its own status, besides that of the code.
	const main = told.filter(([code, status]) => code !== 'CANCELLED' || status === 130);
	expect(Object.fromEntries(main)).toEqual(Object.fromEntries(codes.map(code => [code, exitCodeOf(code)])));
	expect(told.filter(([code]) => code === 'CANCELLED').map(([, status]) => status)).toEqual([129, 130, 143]);
});

test('the messages that troubleshooting explains are those of the program', () => {
	const folder = join(project, 'src');
	const sources = readdirSync(folder, {recursive: true, encoding: 'utf8'}).filter(name => name.endsWith('.ts'));
	const launcher = join(project, 'bin/quiesce.js');
	const source = [...sources.map(name => join(folder, name)), launcher]
		.map(file => readFileSync(file, 'utf8'))
		.join('\n');
	// Where the program puts a value, the page has an ellipsis or a value of its own.
	const [, ...items] = proseOf('docs/troubleshooting.md').split(/^- (?=`)/m);
	const messages = items.flatMap(
		item => /^(?:`[^`]+`(?:, )?)+/.exec(item)?.[0].match(/[^`]{3,}(?=`(?:,|:|$| \())/g) ?? [],
	);
	const parts = messages.flatMap(message => message.split(/…|'|^cannot |:$|: …|22\.18/).map(part => part.trim()));
	const texts = parts.filter(part => /[a-z]{3}/.test(part));
	expect(texts.length).toBeGreaterThan(60);
	expect(texts.filter(text => !source.includes(text))).toEqual([]);
});
