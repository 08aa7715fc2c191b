import {QuiesceError} from '../errors.ts';
import type {MergedImages} from '../snapshots/retell.ts';
import type {Layer} from './disk-chains.ts';
import type {DiskWithMedium} from './select-disks.ts';

/** A merge of layers of one disk that has been looked at from all sides. */
export interface MergePlan {
	readonly disk: DiskWithMedium;
	/**
	 * `active`: what the guest writes to is committed too, so that the disk pivots. `commit`: down into a layer, beneath one
	 * that stays. `stream`: up into a layer.
	 */
	readonly kind: 'active' | 'commit' | 'stream';
	readonly into: Layer;
	/** The layers that leave the chain, the top first. */
	readonly going: readonly [Layer, ...Layer[]];
	/** The layer above those that a commit takes away: it has to name the base in its header. */
	readonly namedBy: Layer | undefined;
	/** What lies beneath those that a stream takes away. */
	readonly below: Layer | undefined;
	/** How the base is to be named there; undefined where that is left to QEMU. */
	readonly backingFile: string | undefined;
	/** At the most, as the layers' files are so large on the host; undefined where the storage cannot tell. */
	readonly bytes: number | undefined;
	readonly warnings: readonly string[];
}

export function bytesOf(layers: readonly Layer[]): number | undefined {
	return layers.reduce<number | undefined>((sum, {node: {allocatedBytes}}) => {
		return sum === undefined || allocatedBytes === undefined ? undefined : sum + allocatedBytes;
	}, 0);
}

/** Throws if a file that is to be removed has snapshots in itself, which would go with it. */
export function requireNothingInside({disk, going}: MergePlan): void {
	for (const {name, node} of going) {
		const names = node.snapshots.map(snapshot => snapshot.name);
		if (names.length === 0) continue;
		throw new QuiesceError(
			'REFUSED',
			`${disk.name}: ${name} has snapshots in itself, which would go with it: ${names.join(', ')}`,
			{
				hint: '`quiesce snapshot delete` removes each, if it is of no more use. To merge, and leave the file: `quiesce commit --keep`.',
			},
		);
	}
}

/** What snapshots are to be told of it; undefined where images are in no files. */
export function imagesOf(
	{disk, kind, into, going, namedBy, below}: MergePlan,
	removes: boolean,
): MergedImages | undefined {
	const files = going.flatMap(({file}) => file ?? []);
	if (into.file === undefined || files.length < going.length) return undefined;
	return {
		disk: disk.name,
		way: kind === 'stream' ? 'up' : 'down',
		into: into.file,
		intoFormat: into.node.driver,
		going: files,
		above: namedBy?.file ?? null,
		below: below?.file ?? null,
		removes,
	};
}
