import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, expect, test} from 'vitest';
import {differences, type SchemaInfo} from './schema-check.ts';

const root = join(import.meta.dirname, '../..');

function recorded(version: string): SchemaInfo[] {
	return JSON.parse(readFileSync(join(root, 'fixtures/qmp-schema', `${version}.json`), 'utf8')) as SchemaInfo[];
}

const schemas = Object.fromEntries(['7.2', '10.0', '11.1'].map(version => [version, recorded(version)]));

test('the types of commands and events are those of every QEMU that is supported', () => {
	const source = readFileSync(join(root, 'src/qmp/schema.ts'), 'utf8');
	expect(differences(source, schemas)).toEqual([]);
});

describe('the comparison', () => {
	const commands = (text: string): string[] => differences(`export interface QmpCommands {${text}}`, schemas);
	const events = (text: string): string[] => differences(`export interface QmpEvents {${text}}`, schemas);
	const all = '(7.2, 10.0, 11.1)';

	test.each([
		[
			'a command that does not exist',
			"'query-blok': {arguments: undefined; return: unknown}",
			[`query-blok is no command ${all}`],
		],
		[
			'an event where a command is meant',
			"'SHUTDOWN': {arguments: undefined; return: unknown}",
			[`SHUTDOWN is no command ${all}`],
		],
		[
			'a misspelt argument, and the one that is missing for it',
			"'job-cancel': {arguments: {job: string}; return: unknown}",
			[`job-cancel.arguments.job does not exist ${all}`, `job-cancel.arguments.id is demanded ${all}`],
		],
		[
			'an argument that must be there and is optional',
			"'job-cancel': {arguments: {id?: string}; return: unknown}",
			[`job-cancel.arguments.id is demanded ${all}`],
		],
		[
			'arguments that are left out',
			"'job-cancel': {arguments: undefined; return: unknown}",
			[`job-cancel.arguments.id is demanded ${all}`],
		],
		[
			'an argument of another type',
			"'query-named-block-nodes': {arguments: {flat?: 'yes'}; return: unknown}",
			[`query-named-block-nodes.arguments.flat is of type boolean ${all}`],
		],
		[
			'a word that an enum does not have',
			"'block-export-del': {arguments: {id: string; mode?: 'safe' | 'soft'}; return: unknown}",
			[`block-export-del.arguments.mode is never 'soft' ${all}`],
		],
		[
			'a member of another variant',
			"'block-export-add': {arguments: {type: 'nbd'; id: string; 'node-name': string; addr: unknown}; return: unknown}",
			[`block-export-add.arguments.addr does not exist ${all}`],
		],
		[
			'a wrong member deep in a transaction',
			`transaction: {
				arguments: {actions: {type: 'block-dirty-bitmap-add'; data: {node: string; name: string; granularity: string}}[]};
				return: unknown;
			}`,
			[`transaction.arguments.actions[].data.granularity is of type int ${all}`],
		],
		[
			'an argument that only a later QEMU has',
			"'blockdev-backup': {arguments: {device: string; target: string; sync: 'full'; 'on-cbw-error'?: string}; return: unknown}",
			['blockdev-backup.arguments.on-cbw-error does not exist (7.2, 10.0)'],
		],
		[
			'a returned member that does not exist',
			"'query-jobs': {arguments: undefined; return: {name: string}[]}",
			[`query-jobs.return[].name does not exist ${all}`],
		],
		[
			'a returned member that only a later QEMU has, and is declared as always there',
			"'query-named-block-nodes': {arguments: undefined; return: {children: unknown}[]}",
			['query-named-block-nodes.return[].children does not exist (7.2, 10.0)'],
		],
		[
			'a misspelt optional member in what only a later QEMU has',
			"'query-named-block-nodes': {arguments: undefined; return: {children?: {chill?: string; child: string}[]}[]}",
			['query-named-block-nodes.return[].children[].chill does not exist (11.1)'],
		],
		[
			'a returned member that may be absent',
			"'query-jobs': {arguments: undefined; return: {error: string}[]}",
			[`query-jobs.return[].error may be absent ${all}`],
		],
		[
			'a returned array that is not one',
			"'query-jobs': {arguments: undefined; return: {id: string}}",
			[`query-jobs.return is an array ${all}`],
		],
		[
			'a returned word that is not foreseen',
			"'query-block-exports': {arguments: undefined; return: {type: 'nbd' | 'fuse'}[]}",
			[
				`query-block-exports.return[].type may be 'vhost-user-blk' ${all}`,
				`query-block-exports.return[].type may be 'vduse-blk' ${all}`,
			],
		],
		[
			'a reply that is not empty',
			"'query-name': {arguments: undefined; return: Record<string, never>}",
			[`query-name.return is not empty ${all}`],
		],
		[
			'text where a number is returned',
			"'query-version': {arguments: undefined; return: {qemu: {major: string}}}",
			[`query-version.return.qemu.major is of type int ${all}`],
		],
		[
			'what is deprecated',
			"'block-commit': {arguments: {device: string; top?: string}; return: unknown}",
			[`block-commit.arguments.top is deprecated ${all}`],
		],
	])('finds %s', (_what, text, found) => {
		expect(commands(text)).toEqual(found);
	});

	test('finds a command that is not taken out of band', () => {
		const text = 'export interface QmpOutOfBandCommands {quit: {arguments: undefined; return: unknown}}';
		expect(differences(text, schemas)).toEqual([`quit is not taken out of band ${all}`]);
	});

	test('lets a command be that only some QEMUs have, and finds one that none has', () => {
		const later = (text: string): string[] => differences(`export interface QmpLaterCommands {${text}}`, schemas);
		expect(later("'blockdev-set-active': {arguments: {active: boolean}; return: unknown}")).toEqual([]);
		expect(later("'blockdev-set-active': {arguments: {activ: boolean}; return: unknown}")).toEqual([
			'blockdev-set-active.arguments.activ does not exist (10.0, 11.1)',
			'blockdev-set-active.arguments.active is demanded (10.0, 11.1)',
		]);
		expect(later("'blockdev-set-actve': {arguments: undefined; return: unknown}")).toEqual([
			`blockdev-set-actve does not exist ${all}`,
		]);
	});

	test.each([
		['an event that does not exist', 'SHUTDOWNS: {guest: boolean}', [`SHUTDOWNS is no event ${all}`]],
		['a wrong member', 'SHUTDOWN: {guests: boolean}', [`SHUTDOWN.guests does not exist ${all}`]],
		['a wrong type', 'SHUTDOWN: {guest: string}', [`SHUTDOWN.guest is of type boolean ${all}`]],
		[
			'a member that may be absent',
			'BLOCK_JOB_COMPLETED: {error: string}',
			[`BLOCK_JOB_COMPLETED.error may be absent ${all}`],
		],
	])('finds %s of events', (_what, text, found) => {
		expect(events(text)).toEqual(found);
	});

	test('sees through alternatives, and follows types that hold themselves', () => {
		const image = "interface Image {'backing-image'?: Image; 'virtual-size': string}";
		const nodes = "'query-named-block-nodes': {arguments: undefined; return: {image: Image}[]}";
		expect(differences(`${image} export interface QmpCommands {${nodes}}`, schemas)).toEqual([
			`query-named-block-nodes.return[].image.virtual-size is of type int ${all}`,
		]);
		const bitmaps = (type: string): string =>
			`'block-dirty-bitmap-merge': {arguments: {node: string; target: string; bitmaps: ${type}[]}; return: unknown}`;
		expect(commands(bitmaps('string'))).toEqual([]);
		expect(commands(bitmaps('{node: string; name: string}'))).toEqual([]);
		expect(commands(bitmaps('number'))).toEqual([
			`block-dirty-bitmap-merge.arguments.bitmaps[] is none of the alternatives ${all}`,
		]);
	});

	test('takes no text that does not compile', () => {
		expect(() => commands('quit: {arguments: Undefined}')).toThrow(/Cannot find name 'Undefined'/);
	});
});
