import {expect, test} from 'vitest';
import {BlockGraphError} from '../../src/block/errors.ts';
import {buildBlockGraph} from '../../src/block/graph.ts';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import {QmpDisconnectedError} from '../../src/qmp/errors.ts';
import type {QmpBlockNode} from '../../src/qmp/schema.ts';
import {backend, graphOf, node, readSchema, recordedGraph, replay, repliesOf} from './recordings.ts';

const file = node('file', 'file');
const format = node('format', 'qcow2', {file: 'file'});
const fileWithoutChildren = {...file};
delete fileWithoutChildren.children;

/** A filter, the role of what it shows, and another child that must not be taken for it. */
const filters: [driver: string, role: string, other: string][] = [
	['blkdebug', 'image', 'file'],
	['blklogwrites', 'file', 'log'],
	['blkreplay', 'image', 'file'],
	['blkverify', 'raw', 'test'],
	['commit_top', 'backing', 'file'],
	['compress', 'file', 'backing'],
	['copy-before-write', 'file', 'target'],
	['copy-on-read', 'file', 'backing'],
	['mirror_top', 'backing', 'file'],
	['preallocate', 'file', 'backing'],
	['throttle', 'file', 'backing'],
];

test.for(filters)('a disk is seen through %s', ([driver, role, other]) => {
	const filter = node('filter', driver, {[other]: 'other', [role]: 'format'});
	const {disks} = graphOf([filter, format, file, node('other', 'null-co')]);
	expect(disks).toMatchObject([{name: 'vda', medium: {rootNode: 'filter', node: 'format', filters: ['filter']}}]);
});

test('a disk is seen through filters over filters, from the root down', () => {
	const throttle = node('limits', 'throttle', {file: 'cbw'});
	const cbw = node('cbw', 'copy-before-write', {target: 'scratch', file: 'format'});
	const {disks} = graphOf([throttle, cbw, format, file, node('scratch', 'null-co')]);
	expect(disks[0]!.medium).toMatchObject({node: 'format', filters: ['limits', 'cbw'], filename: '/file'});
});

test('the chain leaves out the filters that jobs put into it', () => {
	const top = node('top', 'qcow2', {file: 'top-file', backing: 'commit'});
	const commit = node('commit', 'commit_top', {backing: 'format'});
	const {disks} = graphOf([top, node('top-file', 'file'), commit, format, file]);
	expect(disks[0]!.medium!.chain.map(({name, backing}) => [name, backing])).toEqual([
		['top', 'commit'],
		['format', undefined],
	]);
});

test.for(['raw', 'quorum', 'replication'])('%s counts as the format', driver => {
	const {disks} = graphOf([node('root', driver, {file: 'format'}), format, file]);
	expect(disks[0]!.medium).toMatchObject({node: 'root', format: driver, filters: []});
});

test('LUKS below the format makes the medium encrypted, and the file below it gives the name', () => {
	const luks = node('luks', 'luks', {file: 'file'}, {encrypted: true, file: 'json:{}'});
	const {disks} = graphOf([node('raw', 'raw', {file: 'luks'}), luks, file]);
	expect(disks[0]!.medium).toMatchObject({node: 'raw', encrypted: true, filename: '/file'});
});

test('a protocol node without a format over it is backed up itself', () => {
	expect(graphOf([file]).disks[0]!.medium).toMatchObject({node: 'file', format: 'file', filename: '/file'});
});

test('drives without a device are shown only if they hold a medium', () => {
	const backends = [backend(undefined, file, 'loose'), backend(undefined, undefined, 'sd0')];
	const {disks} = buildBlockGraph({backends, nodes: [file], devices: new Map()});
	expect(disks).toMatchObject([{name: 'loose', backend: 'loose', medium: {node: 'file'}}]);
});

test('a disk keeps its name and its format node while a backup of it runs', async () => {
	const [before] = graphOf([node('vda-format', 'qcow2')]).disks;
	const [during] = (await recordedGraph('7.2', 'during-backup')).disks;
	expect(during).toMatchObject({name: before!.name, fileName: before!.fileName, medium: {node: 'vda-format'}});
	expect(during!.medium!.rootNode).not.toBe('vda-format');
});

const broken: [what: string, nodes: QmpBlockNode[], says: RegExp][] = [
	['a node is its own backing', [node('a', 'qcow2', {backing: 'a'})], /circle at or above a$/],
	[
		'filters go round',
		[node('a', 'throttle', {file: 'b'}), node('b', 'throttle', {file: 'a'})],
		/circle at or above a, b$/,
	],
	['nodes of no disk go round', [file, node('a', 'x', {x: 'b'}), node('b', 'x', {y: 'a'})], /circle at or above a, b$/],
	[
		'a disk leads into a circle',
		[node('root', 'qcow2', {backing: 'a'}), node('a', 'qcow2', {backing: 'b'}), node('b', 'qcow2', {backing: 'a'})],
		/circle at or above a, b$/,
	],
	['an edge leads nowhere', [node('a', 'qcow2', {file: 'gone'})], /file of a is gone/],
	['a filter covers nothing', [node('a', 'throttle')], /filter a has nothing under it/],
];

test.for(broken)('a graph in which %s is refused', ([, nodes, says]) => {
	expect(() => graphOf(nodes)).toThrow(BlockGraphError);
	expect(() => graphOf(nodes)).toThrow(says);
});

test('a node with two parents is no circle', () => {
	const nodes = [node('top', 'quorum', {'children.0': 'format', 'children.1': 'other'}), format, file];
	expect(graphOf([...nodes, node('other', 'qcow2', {file: 'file'})]).disks).toMatchObject([{medium: {node: 'top'}}]);
});

test('a disk whose node is not there is refused', () => {
	expect(() => buildBlockGraph({backends: [backend('vda', file)], nodes: [], devices: new Map()})).toThrow(
		/no node file/,
	);
});

test('a debugging graph with an edge to nowhere, or that leaves out a node, is refused', () => {
	const nodes = [{id: 1, type: 'block-driver' as const, name: 'file'}];
	const edges = [{parent: 1, child: 2, name: 'file'}];
	expect(() => graphOf([fileWithoutChildren], {debugGraph: {nodes, edges}})).toThrow(/file of file leads nowhere/);
	expect(() => graphOf([fileWithoutChildren], {debugGraph: {nodes: [], edges: []}})).toThrow(/what is under file/);
	expect(() => graphOf([fileWithoutChildren])).toThrow(/what is under file/);
});

test('a job of the same name as a node lends it no children', () => {
	const debugGraph = {
		nodes: [
			{id: 1, type: 'block-driver' as const, name: 'file'},
			{id: 2, type: 'block-job' as const, name: 'file'},
		],
		edges: [{parent: 2, child: 1, name: 'main node'}],
	};
	expect(graphOf([fileWithoutChildren], {debugGraph}).nodes.get('file')!.children).toEqual([]);
});

test('a chain of 50,000 images is read without recursion', () => {
	const last = 49_999;
	const backing = (n: number): Record<string, string> => (n < last ? {backing: `n${n + 1}`} : {});
	const chain = Array.from({length: last + 1}, (_, n) => node(`n${n}`, 'qcow2', backing(n)));
	expect(graphOf(chain).disks[0]!.medium!.chain).toHaveLength(last + 1);
});

test('answers that do not fit together are asked for again, thrice in all', async () => {
	const commands: string[] = [];
	const qmp = replay({...repliesOf('11.1', 'blockdev'), 'query-named-block-nodes': []}, commands);
	await expect(readBlockGraph(qmp, readSchema('11.1'))).rejects.toThrow(BlockGraphError);
	expect(commands.filter(command => command === 'query-block')).toHaveLength(3);
});

test('only a refusal counts as a property that is not there', async () => {
	const {execute} = replay(repliesOf('11.1', 'blockdev'));
	const lost = new QmpDisconnectedError('gone');
	const losing = (command: 'query-block') =>
		(command as string) === 'qom-get' ? Promise.reject(lost) : execute(command);
	await expect(readBlockGraph({execute: losing as typeof execute}, readSchema('11.1'))).rejects.toBe(lost);
});
