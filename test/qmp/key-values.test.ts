import {expect, test} from 'vitest';
import {completeLine} from '../../src/qmp/complete.ts';
import {parseKeyValues} from '../../src/qmp/key-values.ts';
import {recordedSchema} from './recorded-schema.ts';

const schema = recordedSchema('10.0');

test.each<[string, unknown]>([
	['query-status', {}],
	['blockdev-del node-name=7', {'node-name': '7'}],
	['block-job-set-speed device=a speed=1048576', {device: 'a', speed: 1048576}],
	['block-job-set-speed device=a speed=5M', {device: 'a', speed: '5M'}],
	['query-named-block-nodes flat=on', {flat: true}],
	['blockdev-add driver=null-co size=5 read-zeroes=no', {'driver': 'null-co', 'size': 5, 'read-zeroes': false}],
	[
		'blockdev-add driver=qcow2 file.driver=file file.filename=5',
		{driver: 'qcow2', file: {driver: 'file', filename: '5'}},
	],
	['blockdev-add driver=qcow2 file=node0 backing=null', {driver: 'qcow2', file: 'node0', backing: null}],
	['blockdev-add driver=qcow2 file={"driver":"file"}', {driver: 'qcow2', file: {driver: 'file'}}],
	['blockdev-del {"node-name":"a"}', {'node-name': 'a'}],
	[
		'block-dirty-bitmap-merge node=a target=b bitmaps.0=c bitmaps.1.node=d bitmaps.1.name=5',
		{node: 'a', target: 'b', bitmaps: ['c', {node: 'd', name: '5'}]},
	],
	['transaction actions.0.type=abort actions.0.data={}', {actions: [{type: 'abort', data: {}}]}],
	['qom-set path=/a property=b value=5', {path: '/a', property: 'b', value: 5}],
	['qom-set path=/a property=b value=five', {path: '/a', property: 'b', value: 'five'}],
	['no-such-command a=5', {a: 5}],
])('%s', (line, given) => {
	const [command = '', ...words] = line.split(' ');
	expect(parseKeyValues(schema, command, words)).toEqual(given);
});

test.each([
	['blockdev-del node-name', "'node-name' is not key=value"],
	['blockdev-del =a', "'=a' is not key=value"],
	['blockdev-del node-name=a node-name=b', 'node-name is given twice'],
	['blockdev-add file=a file.driver=b', 'file has a value of its own already'],
	['blockdev-add file.driver=b file=a', 'file is given twice'],
	['blockdev-add file.__proto__.a=b', 'a name that is none'],
	['blockdev-del {"node-name"', 'is not JSON'],
	['blockdev-add file={"driver"', 'is not JSON'],
])('%s is refused', (line, words) => {
	const [command = '', ...rest] = line.split(' ');
	expect(() => parseKeyValues(schema, command, rest)).toThrow(words);
});

test.each<[string, string[]]>([
	['query-stat', ['query-stats ', 'query-stats-schemas ', 'query-status ']],
	['blockdev-del ', ['node-name=']],
	['blockdev-add driver=qco', ['driver=qcow ', 'driver=qcow2 ']],
	['blockdev-add driver=qcow2 lazy', ['lazy-refcounts=']],
	['blockdev-add driver=qcow2 lazy-refcounts=', ['lazy-refcounts=false ', 'lazy-refcounts=true ']],
	['blockdev-add driver=raw lazy', []],
	['blockdev-add driver=raw off', ['offset=']],
	['blockdev-add driver=raw fi', ['file.']],
	['blockdev-add driver=raw file.driver=null-', ['file.driver=null-aio ', 'file.driver=null-co ']],
	['blockdev-add driver=raw file.driver=file file.filen', ['file.filename=']],
	['transaction actions.0.type=blockdev-b', ['actions.0.type=blockdev-backup ']],
	['transaction actions.0.type=blockdev-backup actions.0.data.sy', ['actions.0.data.sync=']],
	['no-such ', []],
])('%s is completed', (line, candidates) => {
	expect(completeLine(schema, line).candidates).toEqual(candidates);
});
