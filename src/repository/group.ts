import path from 'node:path';
import {isThere} from './durable-files.ts';
import {MANIFEST_FILE, pointFolder} from './layout.ts';
import type {GroupedPoint, PointManifest} from './manifest.ts';
import type {Repository} from './repository.ts';

/**
 * The points of a point's group that are not there: removed since, or never come to appear because the run ended while
 * the group's points did.
 */
export async function missingOfGroup(
	repository: Repository,
	{group}: Pick<PointManifest, 'group'>,
): Promise<readonly GroupedPoint[]> {
	const missing: GroupedPoint[] = [];
	for (const member of group?.members ?? []) {
		const folder = pointFolder(repository.path, member.vm, member.point);
		if (!(await isThere(path.join(folder, MANIFEST_FILE)))) missing.push(member);
	}
	return missing;
}
