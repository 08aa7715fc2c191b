/** What a disk's chain and the snapshots are made of, by the names of files. Pure: nothing here knows of QEMU. */
export interface World {
	/** For each disk what it lies on, the active image first. */
	readonly chains: ReadonlyMap<string, readonly string[]>;
	readonly snapshots: ReadonlyMap<string, Snapshot>;
	/** Files that are in no chain any more, with what each lies on. */
	readonly spare: ReadonlyMap<string, string | undefined>;
}

/** For each of its disks. */
export type Snapshot = ReadonlyMap<string, SnapshotImages>;

/** Where the two have become one, or something was written into the base, nothing shows the disk any more. */
export interface SnapshotImages {
	readonly base: string;
	readonly overlay: string;
	readonly spoiled?: boolean;
}

/** Overlays are put on disks. */
export function cut(world: World, name: string, overlays: ReadonlyMap<string, string>): World {
	const disks = Array.from(overlays, ([disk, overlay]) => [disk, {base: activeOf(world, disk), overlay}] as const);
	return {
		...world,
		chains: having(
			world.chains,
			Array.from(overlays, ([disk, overlay]) => [disk, [overlay, ...chainOf(world, disk)]] as const),
		),
		snapshots: having(world.snapshots, [[name, new Map(disks)]]),
	};
}

/** The layers from `top` down go into `base`. Undefined where that would change what a spare image lies on. */
export function mergeDown(
	world: World,
	disk: string,
	{top, base, keep}: {readonly top: string; readonly base: string; readonly keep: boolean},
): World | undefined {
	const chain = chainOf(world, disk);
	const going = chain.slice(chain.indexOf(top), chain.indexOf(base));
	if ([...going, base].some(file => isBeneathSpare(world, file))) return undefined;
	return {
		chains: having(world.chains, [[disk, chain.filter(file => !going.includes(file))]]),
		snapshots: retold(world, disk, file => (going.includes(file) ? base : file)),
		spare: keep ? having(world.spare, withBacking(chain, going)) : world.spare,
	};
}

/** What is written into `base` by a merge that may not come to its end. */
export function spoil(world: World, disk: string, {top, base}: {readonly top: string; readonly base: string}): World {
	const chain = chainOf(world, disk);
	const going = chain.slice(chain.indexOf(top), chain.indexOf(base));
	const snapshots = mapped(world.snapshots, snapshot => {
		const images = snapshot.get(disk);
		if (!images || !going.includes(images.overlay)) return snapshot;
		return having(snapshot, [[disk, {...images, spoiled: true}]]);
	});
	return {...world, snapshots};
}

/** The layers above `base`, or all, go up into the active one. What a spare image lies on is never removed. */
export function pullUp(
	world: World,
	disk: string,
	{base, remove}: {readonly base: string | undefined; readonly remove: boolean},
): World {
	const chain = chainOf(world, disk);
	const [into = '', ...below] = chain;
	const going = base === undefined ? below : below.slice(0, below.indexOf(base));
	let {spare} = world;
	for (const [file, backing] of withBacking(chain, going)) {
		if (!remove || isBeneathSpare({...world, spare}, file)) spare = having(spare, [[file, backing]]);
	}
	const last = going.at(-1);
	const snapshots = mapped(world.snapshots, snapshot => {
		const images = snapshot.get(disk);
		if (!images) return snapshot;
		if (remove && going.includes(images.base)) return having(snapshot, [[disk, {base: into, overlay: into}]]);
		const moves = images.base === base && images.overlay === last;
		return moves ? having(snapshot, [[disk, {...images, overlay: into}]]) : snapshot;
	});
	return {chains: having(world.chains, [[disk, [into, ...chain.slice(1 + going.length)]]]), snapshots, spare};
}

/** The spare files are removed. What is called so later is none of theirs. */
export function tidy(world: World): World {
	const snapshots = mapped(world.snapshots, snapshot =>
		mapped(snapshot, images => (world.spare.has(images.base) ? {...images, spoiled: true} : images)),
	);
	return {...world, snapshots, spare: new Map()};
}

export function without(world: World, snapshot: string): World {
	const snapshots = new Map(world.snapshots);
	snapshots.delete(snapshot);
	return {...world, snapshots};
}

/** Whether each of its bases is directly beneath its overlay. */
export function isWhole(world: World, snapshot: Snapshot): boolean {
	return Array.from(snapshot).every(([disk, {base, overlay, spoiled = false}]) => {
		const chain = chainOf(world, disk);
		const at = chain.indexOf(overlay);
		return !spoiled && at >= 0 && chain[at + 1] === base;
	});
}

/** Whether its base is still what it was, in a chain or not. */
export function showsDisk(world: World, disk: string, {base, overlay, spoiled = false}: SnapshotImages): boolean {
	return !spoiled && base !== overlay && (chainOf(world, disk).includes(base) || world.spare.has(base));
}

export function chainOf({chains}: World, disk: string): readonly string[] {
	return chains.get(disk) ?? [];
}

export function activeOf(world: World, disk: string): string {
	return chainOf(world, disk)[0] ?? '';
}

/** How many disks of snapshots may show something else by now. */
export function spoiledIn({snapshots}: World): number {
	const images = [...snapshots.values()].flatMap(snapshot => [...snapshot.values()]);
	return images.filter(({spoiled = false}) => spoiled).length;
}

/** All that can be seen of it from outside, a line each. */
export function linesOf(world: World): string[] {
	return [
		...Array.from(world.chains, ([disk, chain]) => `${disk}: ${chain.join(' <- ')}`),
		...Array.from(world.snapshots, ([name, one]) => `snapshot ${name} is ${isWhole(world, one) ? 'whole' : 'broken'}`),
		...Array.from(world.spare.keys(), file => `spare ${file}`),
	].sort();
}

function isBeneathSpare({spare}: World, file: string): boolean {
	return [...spare.values()].includes(file);
}

function withBacking(chain: readonly string[], files: readonly string[]): [string, string | undefined][] {
	return files.map(file => [file, chain[chain.indexOf(file) + 1]]);
}

function retold(world: World, disk: string, rename: (file: string) => string): World['snapshots'] {
	return mapped(world.snapshots, snapshot => {
		const images = snapshot.get(disk);
		if (!images) return snapshot;
		return having(snapshot, [[disk, {...images, base: rename(images.base), overlay: rename(images.overlay)}]]);
	});
}

function mapped<Key, Value>(map: ReadonlyMap<Key, Value>, change: (value: Value) => Value): ReadonlyMap<Key, Value> {
	return new Map(Array.from(map, ([key, value]) => [key, change(value)]));
}

function having<Key, Value>(
	map: ReadonlyMap<Key, Value>,
	entries: Iterable<readonly [Key, Value]>,
): ReadonlyMap<Key, Value> {
	return new Map([...map, ...entries]);
}
