import {isLasting} from './names.ts';
import type {BitmapInfo, BlockNode} from './nodes.ts';

/** What has to be done to the bitmaps of a base that is going to get what the layers above it hold. */
export interface CarriedBitmaps {
	/** Those that the base lacks, with what they are to be like. */
	readonly add: readonly Pick<BitmapInfo, 'name' | 'granularity' | 'persistent'>[];
	/** What goes into which bitmap of the base. */
	readonly merge: readonly {readonly name: string; readonly from: readonly string[]}[];
	/** Those that go with the layers, with the reason. */
	readonly lost: readonly {readonly name: string; readonly why: string}[];
}

/**
 * `layers` are those that go, the top first. A bitmap that the base has stays right: it records what is written down into
 * it, which is all that the layers hold. One that began above the base is added to it, if it is shown to have seen every
 * write since: it must be on the top, and on each layer between that and the lowest that has it, and record there. Only
 * those of ours are added; but what another program's bitmap has recorded is merged where the base has one of its name.
 */
export function carriedBitmaps(layers: readonly BlockNode[], base: BlockNode): CarriedBitmaps {
	const add: Pick<BitmapInfo, 'name' | 'granularity' | 'persistent'>[] = [];
	const merge: {name: string; from: string[]}[] = [];
	const lost: {name: string; why: string}[] = [];
	for (const name of new Set(layers.flatMap(({bitmaps}) => bitmaps.map(bitmap => bitmap.name)))) {
		const held = layers.map(({bitmaps}) => bitmaps.find(bitmap => bitmap.name === name));
		const from = layers.filter((_, depth) => isSound(held[depth])).map(layer => layer.name);
		const there = base.bitmaps.find(bitmap => bitmap.name === name);
		if (there) {
			if (isSound(there)) merge.push({name, from});
			else lost.push({name, why: 'that of the base is not sound'});
			continue;
		}
		const lowest = held.findLastIndex(bitmap => bitmap !== undefined);
		const [top] = held;
		if (!isLasting(name)) lost.push({name, why: 'it is of another program, and not on the base'});
		else if (top && held.slice(0, lowest + 1).every(isSound)) {
			add.push({name, granularity: top.granularity, persistent: top.persistent && base.driver === 'qcow2'});
			merge.push({name, from});
		} else lost.push({name, why: 'not every layer above the base has recorded in it'});
	}
	return {add, merge, lost};
}

function isSound(bitmap: BitmapInfo | undefined): boolean {
	return bitmap?.recording === true && !bitmap.inconsistent && !bitmap.busy;
}
