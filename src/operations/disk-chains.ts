import path from 'node:path';
import {fileNameOf, nodesAbove} from '../block/layers.ts';
import type {BlockGraph} from '../block/graph.ts';
import type {BlockNode} from '../block/nodes.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {type HostProcess, sharesMounts} from '../host/processes.ts';
import {qemuOf} from './capture-machine.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {fileOn} from './source-images.ts';
import type {Session} from './vm-session.ts';

/** An image of a chain. */
export interface Layer {
	readonly node: BlockNode;
	/** What QEMU calls it: mostly a path. */
	readonly name: string;
	/** Its path on this host; undefined for what is no file, or cannot be seen from here. */
	readonly file: string | undefined;
}

export interface DiskChain {
	readonly disk: DiskWithMedium;
	/** The active one first. */
	readonly layers: readonly [Layer, ...Layer[]];
}

/** The disks of a VM with what they lie on. */
export interface VmChains {
	readonly graph: BlockGraph;
	/** The VM's process, where this host can show it. */
	readonly qemu: HostProcess | undefined;
	readonly chains: readonly DiskChain[];
}

export async function readChains(vm: Session): Promise<VmChains> {
	const [graph, qemu] = await Promise.all([vm.readGraph(), qemuOf(vm)]);
	const seesOurFiles = qemu === undefined || (await sharesMounts(qemu.pid));
	const layerOf = (node: BlockNode): Layer => {
		const name = fileNameOf(graph.nodes, node);
		return {node, name, file: seesOurFiles ? fileOn(name, qemu?.cwd) : undefined};
	};
	const chains = graph.disks.flatMap(({medium, ...disk}): DiskChain[] => {
		if (!medium) return [];
		const [top, ...below] = medium.chain;
		return [{disk: {...disk, medium}, layers: [layerOf(top), ...below.map(layerOf)]}];
	});
	return {graph, qemu, chains};
}

/** Those of the named disks; without names, those that lie on more than one image. */
export function chainsOf({graph, chains}: VmChains, names: readonly string[] | undefined): readonly DiskChain[] {
	for (const name of names ?? []) {
		if (chains.some(({disk}) => disk.name === name)) continue;
		throw new UsageError(`this VM has no disk '${name}' with a medium`, {
			hint: `Its disks are: ${chains.map(({disk}) => disk.name).join(', ') || 'none'}.`,
		});
	}
	const chosen = chains.filter(({disk, layers}) => names?.includes(disk.name) ?? layers.length > 1);
	for (const {disk, layers} of chosen) {
		if (layers.length === 1) {
			throw new QuiesceError(
				'REFUSED',
				`${disk.name} lies on one image alone, ${layers[0].name}: nothing can be merged`,
			);
		}
		if (disk.medium.readOnly) throw new QuiesceError('REFUSED', `${disk.name} is read-only`);
		requireNoJob(graph, disk);
	}
	if (chosen.length === 0) throw new QuiesceError('REFUSED', 'every disk of this VM lies on one image alone');
	return chosen;
}

/** The layer that an operator means: by its node's name, or by its file. */
export function layerNamed({disk, layers}: DiskChain, word: string, option: string): Layer {
	const found = layers.find(({node, name, file}) => [node.name, name].includes(word) || file === path.resolve(word));
	if (found) return found;
	throw new UsageError(`${option}: ${disk.name} does not lie on ${word}`, {
		hint: `It lies on ${layers.map(({name}) => name).join(', on ')}.`,
	});
}

/** How `above` names `below` where it is to lie on it: relative, as it names what it lies on now, or by the whole path. */
export function backingNameOf(above: Layer, below: Layer): string | undefined {
	const now = above.node.backingFile;
	if (above.file === undefined || below.file === undefined) return undefined;
	if (now === undefined || path.isAbsolute(now) || /^[^/]*:/.test(now)) return below.file;
	const relative = path.relative(path.dirname(above.file), below.file);
	// QEMU takes what precedes a colon for a protocol.
	return relative.includes(':') ? `./${relative}` : relative;
}

const OF_JOBS: ReadonlySet<string> = new Set(['commit_top', 'mirror_top', 'copy-before-write']);

function requireNoJob({nodes}: BlockGraph, {name, medium: {rootNode, hiddenFilter}}: DiskWithMedium): void {
	const beneath = nodesAbove(nodes, rootNode, undefined);
	const isBusy = beneath.some(node => OF_JOBS.has(nodes.get(node)?.driver ?? ''));
	if (hiddenFilter === undefined && !isBusy) return;
	throw new QuiesceError('REFUSED', `another job is at work on ${name}`, {
		hint: '`quiesce jobs` shows it. Wait until it has ended, or cancel it there.',
	});
}
