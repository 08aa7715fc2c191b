import {expect, test} from 'vitest';
import {checkArguments} from '../../src/qmp/check-arguments.ts';
import {RECORDED, recordedSchema} from './recorded-schema.ts';

function wordsOf(command: string, given: unknown, version: (typeof RECORDED)[number] = '10.0'): string[] {
	return checkArguments(recordedSchema(version), command, given).map(
		({path, message}) => `${path.join('.')}: ${message}`,
	);
}

test.each(RECORDED)('QEMU %s takes what is well', version => {
	const well: [string, unknown][] = [
		['query-status', {}],
		['blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': 'b', 'backing': null}],
		['blockdev-add', {driver: 'qcow2', file: {driver: 'file', filename: '/a', locking: 'off'}}],
		['block-dirty-bitmap-merge', {node: 'a', target: 'b', bitmaps: ['c', {node: 'd', name: 'e'}]}],
		['transaction', {actions: [{type: 'blockdev-backup', data: {device: 'a', target: 'b', sync: 'full', speed: 5}}]}],
		['qom-set', {path: '/a', property: 'b', value: {any: ['thing', null]}}],
	];
	for (const [command, given] of well) expect(wordsOf(command, given, version)).toEqual([]);
});

test.each<[string, unknown, string[]]>([
	['blockdev-ad', {}, [': this QEMU has no command blockdev-ad: did you mean blockdev-add?']],
	['blockdev-del', {}, [': node-name is missing']],
	['blockdev-del', {node: 'a'}, [': node-name is missing', 'node: there is no node here, but node-name']],
	['blockdev-del', {'node-name': 7}, ['node-name: expected text, not 7']],
	['query-status', {a: 1}, ['a: there is no a here: there is nothing to be given']],
	['query-status', [], [': expected an object, not a list']],
	['block-job-set-speed', {device: 'a', speed: '5M'}, ["speed: expected a whole number, not '5M'"]],
	['block-job-set-speed', {device: 'a', speed: 5.5}, ['speed: expected a whole number, not 5.5']],
	[
		'blockdev-add',
		{driver: 'file', filname: '/a'},
		[': filename is missing', 'filname: there is no filname here: did you mean filename?'],
	],
	['blockdev-add', {driver: 'qcow2', file: {driver: 'file'}}, ['file: filename is missing']],
	['blockdev-add', {driver: 'qcow2', file: 5}, ['file: expected an object, not 5']],
	['blockdev-add', {'driver': 'null-co', 'read-only': 'on'}, ["read-only: expected true or false, not 'on'"]],
	['blockdev-add', {driver: 'null-co', discard: 'maybe'}, ["discard: expected one of ignore, unmap, not 'maybe'"]],
	[
		'transaction',
		{
			actions: [
				{type: 'abort', data: {}},
				{type: 'blockdev-backup', data: {device: 'a', sync: 'full'}},
			],
		},
		['actions.1.data: target is missing'],
	],
	['transaction', {actions: {}}, ['actions: expected a list, not an object']],
])('of %s with %j is said what is wrong, and where', (command, given, words) => {
	expect(wordsOf(command, given)).toEqual(words);
});

test('a word of an enumeration that is long is refused without all the others', () => {
	const [words] = wordsOf('blockdev-add', {driver: 'qcow3'});
	expect(words).toMatch(/^driver: expected one of blkdebug, .* and \d+ more, not 'qcow3'$/);
});
