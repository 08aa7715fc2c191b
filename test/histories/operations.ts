import {join} from 'node:path';
import type {Random} from '../endurance/random.ts';
import {chainOf, cut, isWhole, mergeDown, pullUp, type Snapshot, spoil, without, type World} from './world.ts';

/** One run of the program, and what may come of it. */
export interface Operation {
	readonly name: string;
	readonly args: readonly string[];
	/** What may be once it has succeeded. None if it is to be refused. */
	readonly after: (world: World) => readonly World[];
	/** Whether it may be refused though it may succeed: that depends on what is less to move. */
	readonly mayBeRefused?: (world: World) => boolean;
	/** What may be besides, if it was killed. */
	readonly halfway: (world: World) => readonly World[];
}

/** What becomes of one disk. */
interface Change {
	/** The ways, or none if it is to be refused. */
	readonly done: (world: World) => readonly World[];
	/** Once it has begun, whether it comes to its end or not. */
	readonly begun: (world: World) => readonly World[];
}

function down(disk: string, layers: {readonly top: string; readonly base: string; readonly keep: boolean}): Change {
	return {
		done: world => [mergeDown(world, disk, layers)].filter(one => one !== undefined),
		begun: world => [spoil(world, disk, layers)],
	};
}

function up(disk: string, layers: {readonly base: string | undefined; readonly remove: boolean}): Change {
	return {done: world => [pullUp(world, disk, layers)], begun: world => [world]};
}

export function create(
	random: Random,
	world: World,
	{name, images}: {readonly name: string; readonly images: string},
): Operation {
	const all = [...world.chains.keys()];
	const disks = random.chance(0.15) ? [random.pick(all as [string, ...string[]])] : all;
	// Names come again once nothing is called so any more.
	const suffix = random.chance(0.3) ? `slot-${random.whole(0, 3)}` : name;
	const overlays = new Map(disks.map(disk => [disk, join(images, `${disk}.${suffix}.qcow2`)]));
	const isTaken = [...overlays.values()].some(
		file => world.spare.has(file) || [...world.chains.values()].some(chain => chain.includes(file)),
	);
	return {
		name: 'snapshot create',
		args: [
			...['snapshot', 'create', name, '--quiesce', 'never', '--overlay-template', `{disk}.${suffix}.qcow2`],
			...(disks.length < all.length ? ['--disk', ...disks] : []),
		],
		after: before => (isTaken ? [] : [cut(before, name, overlays)]),
		halfway: () => [],
	};
}

export function someBackup(random: Random, repository: string): Operation {
	const method = random.pick(['fleece', 'push', 'overlay', undefined]);
	const options = ['--quiesce', 'never', ...(method === undefined ? [] : ['--method', method])];
	return {
		name: 'backup',
		args: ['backup', '-r', repository, ...options],
		after: world => [world],
		halfway: () => [],
	};
}

export function someCommit(random: Random, world: World): Operation | undefined {
	const keep = random.chance(0.15);
	const options = [...(keep ? ['--keep'] : []), ...someSpeed(random)];
	const deep = disksOver(world, 1);
	const disk = random.pick(deep as [string, ...string[]]);
	if (deep.length === 0) return undefined;
	const chain = chainOf(world, disk);
	if (chain.length > 2 && random.chance(0.6)) {
		const base = random.whole(2, chain.length - 1);
		const top = random.chance(0.7) ? random.whole(1, base - 1) : 0;
		const layers = [...(top === 0 ? [] : ['--top', chain[top]!]), '--base', chain[base]!];
		const name = top === 0 ? 'commit of active layers into a lower one' : 'commit of intermediate layers';
		return merging(
			name,
			['commit', '--disk', disk, ...layers, ...options],
			[down(disk, {top: chain[top]!, base: chain[base]!, keep})],
		);
	}
	const newest = (one: string) => {
		const [top = '', base = ''] = chainOf(world, one);
		return down(one, {top, base, keep});
	};
	if (random.chance(0.3)) {
		return merging('commit of one disk', ['commit', '--disk', disk, ...options], [newest(disk)]);
	}
	return merging('commit of all disks', ['commit', ...options], deep.map(newest));
}

export function someStream(random: Random, world: World): Operation | undefined {
	const remove = random.chance(0.7);
	const options = [...(remove ? ['--delete'] : []), ...someSpeed(random)];
	const deep = disksOver(world, 1);
	if (deep.length === 0) return undefined;
	const disk = random.pick(deep as [string, ...string[]]);
	const chain = chainOf(world, disk);
	if (chain.length > 2 && random.chance(0.7)) {
		const base = chain[random.whole(2, chain.length - 1)];
		return merging(
			'stream to a base',
			['stream', '--disk', disk, '--base', base!, ...options],
			[up(disk, {base, remove})],
		);
	}
	const whole = (one: string) => up(one, {base: undefined, remove});
	if (random.chance(0.5)) return merging('stream of one disk', ['stream', '--disk', disk, ...options], [whole(disk)]);
	return merging('stream of all disks', ['stream', ...options], deep.map(whole));
}

/** Mostly of one that is whole. */
export function someDeletion(random: Random, world: World): Operation | undefined {
	const all = [...world.snapshots];
	const whole = all.filter(([, snapshot]) => isWhole(world, snapshot));
	const from = random.chance(0.8) ? whole : all;
	if (from.length === 0) return undefined;
	const [name, snapshot] = random.pick(from as [[string, Snapshot], ...[string, Snapshot][]]);
	const changes = [...snapshot.keys()].map(disk => deletionFrom(world, snapshot, disk));
	const merges = merging('snapshot delete', ['snapshot', 'delete', name, ...someSpeed(random)], changes);
	const pending = [...snapshot.keys()].filter(disk =>
		deletionFrom(world, snapshot, disk)
			.done(world)
			.some(one => one !== world),
	);
	return {
		...merges,
		mayBeRefused: before =>
			Array.from(snapshot).some(
				([disk, {base, overlay}]) =>
					chainOf(before, disk).includes(overlay) &&
					mergeDown(before, disk, {top: overlay, base, keep: false}) === undefined,
			),
		after: before => merges.after(before).map(after => without(after, name)),
		// Once all is merged it has to be gone.
		halfway: before =>
			merges.halfway(before).filter(one => pending.some(disk => chainOf(one, disk) === chainOf(before, disk))),
	};
}

function deletionFrom(world: World, snapshot: Snapshot, disk: string): Change {
	const {base, overlay} = snapshot.get(disk)!;
	const chain = chainOf(world, disk);
	const at = chain.indexOf(overlay);
	// It is merged already.
	if (at < 0 || base === overlay) return {done: before => [before], begun: before => [before]};
	if (chain[at + 1] !== base) return {done: () => [], begun: () => []};
	const ways = [down(disk, {top: overlay, base, keep: false})];
	if (at === 0) ways.push(up(disk, {base: chain[2], remove: true}));
	return {
		done: before => ways.flatMap(way => way.done(before)),
		begun: before => ways.flatMap(way => way.begun(before)),
	};
}

/** Some of the disks may be merged when it is killed, and others not. */
function merging(name: string, args: readonly string[], changes: readonly Change[]): Operation {
	const each = (world: World, isMust: boolean): readonly World[] =>
		changes.reduce<readonly World[]>(
			(worlds, change) => worlds.flatMap(one => [...(isMust ? [] : [one]), ...change.done(one)]),
			[world],
		);
	return {
		name,
		args,
		after: world => each(world, true),
		halfway: world => {
			if (each(world, true).length === 0) return [];
			const begun = changes.reduce<readonly World[]>((worlds, change) => worlds.flatMap(change.begun), [world]);
			return begun.flatMap(one => each(one, false));
		},
	};
}

/** So slow that the guest goes on to write meanwhile, and that there is a time in which to be killed. */
function someSpeed(random: Random): string[] {
	return random.chance(0.5) ? ['--speed', `${random.whole(8, 32)}M`] : [];
}

function disksOver(world: World, layers: number): string[] {
	return [...world.chains.keys()].filter(disk => chainOf(world, disk).length > layers);
}
