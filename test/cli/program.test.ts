import {join} from 'node:path';
import {readFile} from 'node:fs/promises';
import {expect, test} from 'vitest';
import {jsonLines, runQuiesce} from './run-quiesce.ts';

const commands = ['discover', 'inspect', 'backup', 'list', 'show', 'verify', 'restore', 'freeze', 'thaw'];
const STACK = /^\s+at .+:\d+:\d+\)?$/m;

test('--version prints the version, and nothing else', async () => {
	const {version} = JSON.parse(await readFile(join(import.meta.dirname, '../../package.json'), 'utf8')) as {
		version: string;
	};
	expect(await runQuiesce(['--version'])).toMatchObject({code: 0, stdout: `${version}\n`, stderr: ''});
});

test('the help of the program and of every command fits 80 columns', async () => {
	const helps = await Promise.all([[], ...commands.map(name => [name])].map(words => runQuiesce([...words, '--help'])));
	for (const {code, stdout, stderr} of helps) {
		expect({code, stderr}).toEqual({code: 0, stderr: ''});
		expect(stdout.split('\n').filter(line => line.length > 80)).toEqual([]);
	}
	for (const name of commands) expect(helps[0]?.stdout).toContain(`quiesce ${name}`);
});

test.each([
	[['bakcup'], /bakcup|backup/],
	[['list', '--no-such-option', '-r', '/tmp'], /no-such-option/],
	[[], /no command is named/],
	[['list'], /no repository is named/],
	[['backup', '-r', '/tmp'], /no VM is named/],
	[['backup', 'vm', '--qmp', '/x', '-r', '/tmp'], /either VM or --qmp, not both/],
	[['backup', 'a', 'b', '-r', '/tmp'], /several VMs are named/],
	[['freeze', 'a=/x', 'a=/y', '--group', 'shop'], /no guest agent is known for a/],
	[['backup', 'a=/x', 'a=/y', '--group', 'shop', '-r', '/tmp'], /a is named twice/],
	[['backup', 'a=/x', 'b=/y', '--group', '../shop', '-r', '/tmp'], /'..\/shop' is no name for a group/],
	[['backup', 'a=/x', 'b=/y', '--group', 'shop', '-r', '/tmp', '--disk', 'vda'], /names no disk of the group/],
	[['backup', '--qmp', '/x', '-r', '/tmp', '--quiesce', 'perhaps'], /perhaps/],
	[['backup', '--qmp', '/x', '-r', '/tmp', '--speed', 'fast'], /'fast' is not a number of bytes/],
	[['freeze', '--agent', '/x', '--for', 'ever'], /'ever' is not a duration/],
	[['freeze', '--agent', '/x', '--'], /no command is named after --/],
	[['restore', 'vm@', '-r', '/tmp'], /is not a VM or VM@POINT/],
	[['restore', 'vm', '-r', '/tmp', '--disk', 'vda'], /is not NAME=PATH/],
	[['thaw', '--agent', 'tcp:host'], /tcp:host/],
	[['thaw'], /no VM is named/],
])('%j is a mistake of the call: exit code 2, in words, on stderr', async (args, message) => {
	const plain = await runQuiesce(args);
	expect(plain).toMatchObject({code: 2, stdout: ''});
	expect(plain.stderr).toMatch(message);
	expect(plain.stderr).toMatch(/^quiesce: /);
	expect(plain.stderr).not.toMatch(STACK);
	const json = await runQuiesce(args.includes('--') ? ['--json', ...args] : [...args, '--json']);
	expect(json.code).toBe(2);
	expect(jsonLines(json)).toEqual([
		expect.objectContaining({
			message_type: 'exit_error',
			code: 'USAGE',
			exit_code: 2,
			message: expect.stringMatching(message) as string,
		}),
	]);
});

test('where an error comes from is shown only on request', async () => {
	const args = ['inspect', '--qmp', '/nowhere/qmp.sock'];
	expect((await runQuiesce(args)).stderr).not.toMatch(STACK);
	expect((await runQuiesce([...args, '--debug'])).stderr).toMatch(STACK);
});

test('a transcript that cannot be written is a mistake of the call', async () => {
	const ended = await runQuiesce(['inspect', '--qmp', '/nowhere', '--transcript', '/nowhere/file']);
	expect(ended).toMatchObject({code: 2});
	expect(ended.stderr).toContain('cannot write the transcript /nowhere/file');
});

test.each([
	['an option that there is not', ['list', '--no-such-thing'], 'Unknown argument: no-such-thing'],
	['an argument that is missing', ['hooks', 'show'], 'an argument is missing'],
	[
		'several wrong values',
		['backup', 'web1', '--method', 'x', '--quiesce', 'y'],
		'method is "x", which is none of fleece, push, pull, overlay; quiesce is "y", which is none of require, try, never',
	],
	['a value that there is not', ['restore', 'web1', '--format', 'vhd'], 'format is "vhd", which is none of raw, qcow2'],
	['an option without its value', ['restore', 'web1', '--format'], 'format has no value; it may be raw, qcow2'],
])('%s is told as it was typed', async (_, args, words) => {
	const {code, stderr} = await runQuiesce(args);
	expect(code).toBe(2);
	expect(stderr).toContain(`quiesce: ${words}\n`);
});
