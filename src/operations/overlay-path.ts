import path from 'node:path';
import {UsageError} from '../errors.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';

export const DEFAULT_TEMPLATE = '{stem}.{name}.qcow2';

export interface OverlayNames {
	/** Absolute. */
	readonly base: string;
	readonly snapshot: string;
	readonly disk: string;
	readonly vm: string;
	/** Those whose overlay the base may be. */
	readonly known: readonly Pick<Snapshot, 'name' | 'manifest'>[];
}

/** The absolute path of an overlay. Throws a {@link UsageError} for a template that makes none. */
export function overlayPath(template: string, {base, snapshot, disk, vm, known}: OverlayNames): string {
	const values: Readonly<Record<string, string>> = {stem: stemOf(base, known), name: snapshot, disk, vm};
	const named = template.replaceAll(/\{(?<key>[^}]*)\}/g, (placeholder, key: string) => {
		const value = values[key];
		if (value === undefined) {
			throw new UsageError(`--overlay-template: ${placeholder} means nothing`, {
				hint: 'It may have {stem}, {name}, {disk} and {vm}.',
			});
		}
		// What is put in names no folder, whatever the disk or the VM is called.
		return value.replaceAll('/', '_');
	});
	if (named === '' || named.endsWith('/') || named.includes('\0')) {
		throw new UsageError(`--overlay-template: '${template}' names no file`);
	}
	return path.resolve(path.dirname(base), named);
}

/** What the disk was called before there were snapshots: `web` for `web.qcow2`, and for `web.monday.qcow2` of the snapshot monday. */
function stemOf(base: string, known: OverlayNames['known']): string {
	const stem = path.basename(base, path.extname(base));
	const owner = known.find(({manifest}) => manifest.disks.some(({overlay}) => overlay?.file === base));
	const suffix = `.${owner?.name ?? ''}`;
	return owner && stem.endsWith(suffix) && stem.length > suffix.length ? stem.slice(0, -suffix.length) : stem;
}
