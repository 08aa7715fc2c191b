import {BlockGraphError} from './errors.ts';
import type {Medium} from './medium.ts';
import {type BlockNode, type BlockNodes, childOf} from './nodes.ts';

/** The layers of a disk from `top` down to the one above `base`; both are format nodes of its chain. */
export function layersBetween({chain}: Medium, top: string, base: string): readonly BlockNode[] {
	const [from, to] = [top, base].map(name => chain.findIndex(node => node.name === name));
	if (from === undefined || to === undefined || from < 0 || to <= from) {
		throw new BlockGraphError(`${base} is not beneath ${top}`);
	}
	return chain.slice(from, to);
}

/**
 * All that lies beneath `top`, itself first, but not beneath `base`, if there is one: the layers with the nodes that open
 * their files. Taken before the chain is changed, as afterwards nothing leads from the one to the other.
 */
export function nodesAbove(nodes: BlockNodes, top: string, base: string | undefined): readonly string[] {
	const kept = new Set(base === undefined ? [] : reachable(nodes, base));
	return reachable(nodes, top).filter(name => !kept.has(name));
}

/** What QEMU calls the file of a layer: that of the node which opens it, as the layer's own may tell more than a path. */
export function fileNameOf(nodes: BlockNodes, layer: BlockNode): string {
	let node = layer;
	for (;;) {
		const below = nodes.get(childOf(node, 'file') ?? '');
		if (!below) return node.filename;
		node = below;
	}
}

function reachable(nodes: BlockNodes, root: string): string[] {
	const found = new Set([root]);
	for (const name of found) for (const {node} of nodes.get(name)?.children ?? []) found.add(node);
	return [...found];
}
