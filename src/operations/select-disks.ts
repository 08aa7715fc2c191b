import {backupRefusal, skippedByDefault} from '../block/coverage.ts';
import type {BlockGraph, Disk} from '../block/graph.ts';
import type {Medium} from '../block/medium.ts';
import {QuiesceError, UsageError} from '../errors.ts';

export interface DiskSelection {
	/** Only these; undefined is all that the guest can change. */
	readonly only?: readonly string[] | undefined;
	readonly exclude?: readonly string[] | undefined;
}

export type DiskWithMedium = Disk & {readonly medium: Medium};

export interface SelectedDisks {
	readonly disks: readonly DiskWithMedium[];
	readonly skipped: readonly {readonly name: string; readonly reason: string}[];
}

/**
 * Which disks a point is to hold. One that cannot be copied is refused, unless the operator left it out by name: a
 * point that silently lacks a disk is worse than none.
 */
export function selectDisks(graph: BlockGraph, {only, exclude = []}: DiskSelection): SelectedDisks {
	const known = graph.disks.map(disk => disk.name);
	for (const name of [...(only ?? []), ...exclude]) {
		if (!known.includes(name)) {
			throw new UsageError(`this VM has no disk '${name}'`, {hint: `Its disks are: ${known.join(', ') || 'none'}.`});
		}
	}
	const disks: DiskWithMedium[] = [];
	const skipped: {name: string; reason: string}[] = [];
	for (const disk of graph.disks) {
		const named = only?.includes(disk.name) ?? false;
		const reason = reasonToSkip(disk, named, only !== undefined, exclude);
		if (reason !== undefined) {
			skipped.push({name: disk.name, reason});
			continue;
		}
		const refusal = backupRefusal(disk);
		if (refusal !== undefined || !hasMedium(disk)) {
			throw new QuiesceError('REFUSED', `${disk.name} cannot be backed up: ${refusal ?? 'the drive is empty'}`, {
				hint: `Leave it out with --exclude ${disk.name}.`,
			});
		}
		disks.push(disk);
	}
	if (disks.length === 0) {
		throw new QuiesceError('REFUSED', 'nothing is left to back up', {
			hint: skipped.map(({name, reason}) => `${name}: ${reason}`).join('; ') || 'The VM has no disks.',
		});
	}
	return {disks, skipped};
}

function reasonToSkip(disk: Disk, named: boolean, some: boolean, exclude: readonly string[]): string | undefined {
	if (exclude.includes(disk.name)) return 'excluded by request';
	if (some) return named ? undefined : 'not asked for';
	return skippedByDefault(disk);
}

function hasMedium(disk: Disk): disk is DiskWithMedium {
	return disk.medium !== undefined;
}
