import {isLasting} from './names.ts';
import type {BitmapInfo, BlockNode} from './nodes.ts';

/** What has to be done to the bitmaps of a node that is going to stand for layers that go. */
export interface CarriedBitmaps {
	/** Those that it lacks, with what they are to be like. */
	readonly add: readonly Pick<BitmapInfo, 'name' | 'granularity' | 'persistent'>[];
	/** What goes into which of its bitmaps. */
	readonly merge: readonly {readonly name: string; readonly from: readonly string[]}[];
	/** Those that go with the layers, with the reason. */
	readonly lost: readonly {readonly name: string; readonly why: string}[];
}

/**
 * `layers` are those that go, the top first; `into` is the base that they are committed into, or the layer above that
 * pulls them up. A bitmap that a base has stays right: it records what is written down, which is all that the layers hold.
 * One that began above a base is added to it, if it is shown to have seen every write since: it must be on the uppermost,
 * and on each layer from there to the lowest that has it, and record. To a layer above nothing is added: what it holds
 * itself was not recorded. Only bitmaps of ours are added; another program's is merged where one of its name is there.
 */
export function carriedBitmaps(
	layers: readonly BlockNode[],
	into: BlockNode,
	direction: 'down' | 'up',
): CarriedBitmaps {
	const add: Pick<BitmapInfo, 'name' | 'granularity' | 'persistent'>[] = [];
	const merge: {name: string; from: string[]}[] = [];
	const lost: {name: string; why: string}[] = [];
	for (const name of new Set(layers.flatMap(({bitmaps}) => bitmaps.map(bitmap => bitmap.name)))) {
		const held = layers.map(({bitmaps}) => bitmaps.find(bitmap => bitmap.name === name));
		const from = layers.filter((_, depth) => isSound(held[depth])).map(layer => layer.name);
		const there = into.bitmaps.find(bitmap => bitmap.name === name);
		if (there) {
			if (isSound(there)) merge.push({name, from});
			else lost.push({name, why: `that of ${into.name} is not sound`});
			continue;
		}
		const lowest = held.findLastIndex(bitmap => bitmap !== undefined);
		const [top] = held;
		if (!isLasting(name)) lost.push({name, why: `it is of another program, and not on ${into.name}`});
		else if (direction === 'down' && top && held.slice(0, lowest + 1).every(isSound)) {
			add.push({name, granularity: top.granularity, persistent: top.persistent && into.driver === 'qcow2'});
			merge.push({name, from});
		} else lost.push({name, why: 'not every layer has recorded in it'});
	}
	return {add, merge, lost};
}

function isSound(bitmap: BitmapInfo | undefined): boolean {
	return bitmap?.recording === true && !bitmap.inconsistent && !bitmap.busy;
}
