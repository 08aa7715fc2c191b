import {QuiesceError, UsageError} from '../errors.ts';
import {backingNameOf, chainsOf, type DiskChain, layerNamed, type VmChains} from './disk-chains.ts';
import {bytesOf, type MergePlan} from './merge-plan.ts';

/** From which layers of which disks everything is to be pulled up into the active one. */
export interface StreamWish {
	/** Undefined: all that lie on more than one image. */
	readonly disks?: readonly string[] | undefined;
	/** A file or a node, which stays beneath; nothing does without it. Only for one disk. */
	readonly base?: string | undefined;
}

/** Throws for what cannot go well: `USAGE` for layers that are not there, `REFUSED` for what cannot be pulled. */
export function planStreams(vm: VmChains, {disks, base}: StreamWish): MergePlan[] {
	const chains = chainsOf(vm, disks);
	if (base !== undefined && chains.length > 1) {
		throw new UsageError('--base is a layer of one disk', {hint: 'Say of which with --disk.'});
	}
	return chains.map(chain => planStream(chain, base));
}

function planStream(chain: DiskChain, base: string | undefined): MergePlan {
	const {disk, layers} = chain;
	const [into] = layers;
	const below = base === undefined ? undefined : layerNamed(chain, base, '--base');
	const [first, ...others] = layers.slice(1, below && layers.indexOf(below));
	if (!first) throw new QuiesceError('REFUSED', `${disk.name}: nothing lies between ${into.name} and ${base ?? 'it'}`);
	return {
		disk,
		kind: 'stream',
		into,
		going: [first, ...others],
		namedBy: undefined,
		below,
		backingFile: below && backingNameOf(into, below),
		bytes: bytesOf([first, ...others]),
		warnings: [],
	};
}
