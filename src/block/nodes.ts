import type {QmpBitmap, QmpBlockNode, QmpDebugGraph} from '../qmp/schema.ts';
import {BlockGraphError} from './errors.ts';

/** A bitmap with a name. Those without are QEMU's own. */
export interface BitmapInfo {
	readonly name: string;
	/** Rounded outwards to the granularity. */
	readonly dirtyBytes: number;
	/** Bytes for one bit. */
	readonly granularity: number;
	/** False: it misses every write. */
	readonly recording: boolean;
	/** A job, even one that is only pending, or an export uses it. */
	readonly busy: boolean;
	readonly persistent: boolean;
	/** QEMU was killed while it was in use: it can only be removed. */
	readonly inconsistent: boolean;
}

/** A snapshot that an image keeps in itself. */
export interface InternalSnapshot {
	readonly name: string;
	readonly takenAt: Date;
	/** Bytes; 0 for a disk alone. */
	readonly memoryBytes: number;
}

export interface BlockNode {
	readonly name: string;
	readonly driver: string;
	/** A path, or `json:{…}` where no path can say it. */
	readonly filename: string;
	readonly readOnly: boolean;
	readonly encrypted: boolean;
	/** Bytes. */
	readonly virtualSize: number;
	/** Bytes on the host, where the storage can tell. */
	readonly allocatedBytes?: number | undefined;
	readonly clusterSize?: number | undefined;
	readonly bitmaps: readonly BitmapInfo[];
	/** The internal ones. */
	readonly snapshots: readonly InternalSnapshot[];
	readonly children: readonly {readonly role: string; readonly node: string}[];
	/** The node directly below, which may be the filter of a job. */
	readonly backing?: string | undefined;
	/** The string in the image's header, often relative to the image. */
	readonly backingFile?: string | undefined;
}

export type BlockNodes = ReadonlyMap<string, BlockNode>;

/**
 * The nodes with their edges: from the nodes themselves (QEMU 10.1), else from `debugGraph`. Throws
 * {@link BlockGraphError} unless every edge leads to a node and none leads back, so that whoever follows edges ends.
 */
export function buildNodes(replies: readonly QmpBlockNode[], debugGraph?: QmpDebugGraph): BlockNodes {
	const edges = debugGraph && edgesOf(debugGraph);
	const nodes = new Map<string, BlockNode>();
	for (const reply of replies) {
		const name = reply['node-name'];
		// Nobody can address a node without a name.
		if (name === undefined) continue;
		const children = reply.children?.map(edge => ({role: edge.child, node: edge['node-name']})) ?? edges?.get(name);
		if (!children) throw new BlockGraphError(`it does not say what is under ${name}`);
		nodes.set(name, nodeOf(name, reply, children));
	}
	checkEdges(nodes);
	return nodes;
}

export function childOf(node: BlockNode, role: string): string | undefined {
	return node.children.find(child => child.role === role)?.node;
}

function nodeOf(name: string, reply: QmpBlockNode, children: BlockNode['children']): BlockNode {
	return {
		name,
		driver: reply.drv,
		filename: reply.file,
		readOnly: reply.ro,
		encrypted: reply.encrypted,
		virtualSize: reply.image['virtual-size'],
		allocatedBytes: reply.image['actual-size'],
		clusterSize: reply.image['cluster-size'],
		bitmaps: (reply['dirty-bitmaps'] ?? []).flatMap(bitmapOf),
		snapshots: (reply.image.snapshots ?? []).map(
			({'name': snapshot, 'date-sec': seconds, 'date-nsec': nanoseconds, 'vm-state-size': memoryBytes}) => ({
				...{name: snapshot, memoryBytes},
				takenAt: new Date(seconds * 1000 + nanoseconds / 1_000_000),
			}),
		),
		children,
		backing: children.find(child => child.role === 'backing')?.node,
		backingFile: reply.image['backing-filename'],
	};
}

function bitmapOf(bitmap: QmpBitmap): BitmapInfo[] {
	const {name, count: dirtyBytes, granularity, recording, busy, persistent, inconsistent = false} = bitmap;
	if (name === undefined) return [];
	return [{name, dirtyBytes, granularity, recording, busy, persistent, inconsistent}];
}

/** The graph also holds backends and jobs, whose names may be those of nodes. */
function edgesOf({nodes, edges}: QmpDebugGraph): Map<string, {role: string; node: string}[]> {
	const names = new Map(nodes.filter(node => node.type === 'block-driver').map(node => [node.id, node.name]));
	const children = new Map(Array.from(names.values(), name => [name, [] as {role: string; node: string}[]]));
	for (const edge of edges) {
		const parent = names.get(edge.parent);
		if (parent === undefined) continue;
		const node = names.get(edge.child);
		if (node === undefined) throw new BlockGraphError(`${edge.name} of ${parent} leads nowhere`);
		children.get(parent)?.push({role: edge.name, node});
	}
	return children;
}

/** Takes away, again and again, the nodes that nothing leads to. What stays is on a cycle or below one. */
function checkEdges(nodes: BlockNodes): void {
	const parents = new Map(Array.from(nodes.keys(), name => [name, 0]));
	for (const node of nodes.values()) {
		for (const child of node.children) {
			const count = parents.get(child.node);
			if (count === undefined)
				throw new BlockGraphError(`${child.role} of ${node.name} is ${child.node}, which is not there`);
			parents.set(child.node, count + 1);
		}
	}
	const free = [...nodes.values()].filter(node => parents.get(node.name) === 0);
	for (const node of free) {
		parents.delete(node.name);
		for (const child of node.children) {
			const left = (parents.get(child.node) ?? 0) - 1;
			parents.set(child.node, left);
			const below = nodes.get(child.node);
			if (left === 0 && below) free.push(below);
		}
	}
	if (parents.size > 0) {
		throw new BlockGraphError(`it goes round in a circle at or above ${[...parents.keys()].slice(0, 3).join(', ')}`);
	}
}
