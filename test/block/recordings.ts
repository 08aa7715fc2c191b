import {readFileSync, readdirSync} from 'node:fs';
import {join} from 'node:path';
import {type BlockGraph, type BlockReplies, buildBlockGraph} from '../../src/block/graph.ts';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import type {QmpConnection} from '../../src/qmp/connection.ts';
import {QmpCommandError} from '../../src/qmp/errors.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import type {QmpBlockBackend, QmpBlockNode, QmpVersionInfo} from '../../src/qmp/schema.ts';

const fixtures = join(import.meta.dirname, '../../fixtures');

export const versions = ['7.2', '10.0', '11.1'] as const;
export type Version = (typeof versions)[number];

interface Replies {
	'query-version': QmpVersionInfo;
	'qom': Record<string, Record<string, unknown>>;
	[command: string]: unknown;
}

export function scenariosOf(version: Version): string[] {
	return readdirSync(join(fixtures, 'graphs', version)).map(file => file.replace('.json', ''));
}

export function readSchema(version: Version): QmpSchema {
	return new QmpSchema(readJson('qmp-schema', `${version}.json`) as unknown[]);
}

export function repliesOf(version: Version, scenario: string): Replies {
	return (readJson('graphs', version, `${scenario}.json`) as {replies: Replies}).replies;
}

/** Answers as the QEMU that was recorded; `commands` takes what was asked. */
export function replay(replies: Replies, commands: string[] = []): Pick<QmpConnection, 'execute'> {
	const execute = (command: string, args?: {path: string; property: string}): Promise<unknown> => {
		commands.push(command);
		const reply = command === 'qom-get' ? replies.qom[args!.path]?.[args!.property] : replies[command];
		if (reply !== undefined) return Promise.resolve(reply);
		return Promise.reject(new QmpCommandError(command, 'GenericError', 'there is no such property'));
	};
	return {execute: execute as QmpConnection['execute']};
}

export function recordedGraph(version: Version, scenario: string): Promise<BlockGraph> {
	return readBlockGraph(replay(repliesOf(version, scenario)), readSchema(version));
}

function readJson(...path: string[]): unknown {
	return JSON.parse(readFileSync(join(fixtures, ...path), 'utf8'));
}

/** A node of a hand-made graph; its children by role. */
export function node(
	name: string,
	drv: string,
	children: Record<string, string> = {},
	more: Partial<QmpBlockNode> = {},
): QmpBlockNode {
	return {
		'node-name': name,
		drv,
		'ro': false,
		'file': `/${name}`,
		'encrypted': false,
		'cache': {'direct': false, 'no-flush': false},
		'detect_zeroes': 'off',
		'image': {'filename': `/${name}`, 'format': drv, 'virtual-size': 1 << 20},
		'children': Object.entries(children).map(([child, below]) => ({child, 'node-name': below})),
		...more,
	};
}

export function backend(qdev: string | undefined, root?: QmpBlockNode, device = ''): QmpBlockBackend {
	return {
		device,
		...(qdev !== undefined && {qdev}),
		removable: !root,
		...(root && {inserted: root}),
	};
}

/** The graph of `nodes`, the first of which is the root of the one disk, `vda`. */
export function graphOf(nodes: readonly QmpBlockNode[], more: Partial<BlockReplies> = {}): BlockGraph {
	const backends = [backend('/machine/peripheral/vda/virtio-backend', nodes[0])];
	return buildBlockGraph({backends, nodes, devices: new Map(), ...more});
}
