import {QmpConnection} from '../../../src/qmp/connection.ts';
import type {Guest} from '../../guest/guest.ts';

/** Any command, also those that the program does not use. */
export type Execute = (command: string, args?: object) => Promise<unknown>;

/** One operation on the second monitor, which the program does not use. */
export async function onMonitor<Value>(guest: Guest, work: (execute: Execute) => Promise<Value>): Promise<Value> {
	const qmp = await QmpConnection.open({unix: guest.qmp2Path});
	try {
		return await work((command, args) => (qmp.execute as Execute).call(qmp, command, args));
	} finally {
		await qmp.close();
	}
}

interface Named {
	readonly id: number;
	readonly type: string;
	readonly name: string;
}

interface Answers {
	readonly 'query-status': {readonly status: string};
	readonly 'query-jobs': readonly {readonly id: string; readonly status: string}[];
	readonly 'query-block-exports': readonly {readonly 'id': string; readonly 'node-name': string}[];
	readonly 'query-block': readonly {
		readonly device: string;
		readonly qdev?: string;
		readonly inserted?: {readonly 'node-name'?: string};
	}[];
	readonly 'query-named-block-nodes': readonly {
		readonly 'node-name'?: string;
		readonly 'drv': string;
		readonly 'ro': boolean;
		readonly 'dirty-bitmaps'?: readonly {readonly name?: string; readonly recording: boolean; readonly busy: boolean}[];
	}[];
	readonly 'x-debug-query-block-graph': {
		readonly nodes: readonly Named[];
		readonly edges: readonly {readonly parent: number; readonly child: number; readonly name: string}[];
	};
}

/**
 * All that a run may change in QEMU, a line each: whether the guest runs, devices and their nodes, the edges between
 * nodes, bitmaps, exports and jobs.
 */
export function qemuState(guest: Guest): Promise<string[]> {
	return onMonitor(guest, async execute => {
		const ask = <Name extends keyof Answers>(command: Name): Promise<Answers[Name]> =>
			execute(command) as Promise<Answers[Name]>;
		const {status} = await ask('query-status');
		const nodes = await ask('query-named-block-nodes');
		const graph = await ask('x-debug-query-block-graph');
		const named = new Map(graph.nodes.map(node => [node.id, `${node.type} ${node.name}`]));
		const lines = [
			`the VM is ${status}`,
			...(await ask('query-jobs')).map(job => `job ${job.id}`),
			...(await ask('query-block-exports')).map(one => `export ${one.id} of ${one['node-name']}`),
			...(await ask('query-block')).map(
				({device, qdev, inserted}) => `device ${qdev ?? device} on ${inserted?.['node-name'] ?? 'nothing'}`,
			),
			...nodes.map(node => `node ${node['node-name'] ?? ''}: ${node.drv}${node.ro ? ', read-only' : ''}`),
			...nodes.flatMap(node =>
				(node['dirty-bitmaps'] ?? [])
					.filter(({name}) => !isLasting(name))
					.map(
						({name, recording, busy}) =>
							`bitmap ${name ?? ''} of ${node['node-name'] ?? ''}${recording ? ', recording' : ''}${busy ? ', busy' : ''}`,
					),
			),
			...nodes.flatMap(tooManyLasting),
			...graph.edges.map(
				({parent, child, name}) => `${named.get(parent) ?? ''} has ${named.get(child) ?? ''} as ${name}`,
			),
		];
		return lines.sort();
	});
}

/** The names of the bitmaps that stay with durable points, whoever's disks they are of. */
export function lastingBitmaps(guest: Guest): Promise<string[]> {
	return onMonitor(guest, async execute => {
		const nodes = (await execute('query-named-block-nodes')) as Answers['query-named-block-nodes'];
		return nodes.flatMap(node =>
			(node['dirty-bitmaps'] ?? []).flatMap(({name}) => (isLasting(name) ? [name ?? ''] : [])),
		);
	});
}

/** The bitmap of a durable point, which is there to stay. */
function isLasting(name = ''): boolean {
	return /^qsc-[0-9a-f]{12}-/.test(name);
}

/** That of the newest point, that of the full it goes back to, and one that a killed run did not come to remove. */
const MOST_LASTING = 3;

function tooManyLasting(node: Answers['query-named-block-nodes'][number]): string[] {
	const lasting = (node['dirty-bitmaps'] ?? []).filter(({name}) => isLasting(name));
	const byTag = Map.groupBy(lasting, ({name = ''}) => name.slice(0, 'qsc-'.length + 12));
	return [...byTag.values()]
		.filter(({length}) => length > MOST_LASTING)
		.map(({length}) => `${length} lasting bitmaps on ${node['node-name'] ?? ''}`);
}

/** What is there now and was not, and the other way round; in words. */
export function difference(before: readonly string[], after: readonly string[]): string[] {
	return [
		...after.filter(line => !before.includes(line)).map(line => `now: ${line}`),
		...before.filter(line => !after.includes(line)).map(line => `no more: ${line}`),
	];
}
