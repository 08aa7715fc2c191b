import {cancelDeletion, finishDeletion, readDeletion} from '../snapshots/deletion.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';

/**
 * After a deletion that was killed: finishes it where all has been merged, and else takes back that it had begun. `files` are those
 * of the VM's chains. Returns in words what it did.
 */
export async function settleDeletion(
	snapshot: Snapshot,
	others: readonly Snapshot[],
	files: ReadonlySet<string>,
): Promise<string[]> {
	const merged = await readDeletion(snapshot);
	if (!merged) return [];
	const left = merged.filter(({going}) => going.some(file => files.has(file)));
	if (left.length === 0) {
		await finishDeletion(snapshot, others, merged);
		return [`deleted the snapshot ${snapshot.name}, whose images had been merged`];
	}
	if (left.length === merged.length) await cancelDeletion(snapshot);
	return [`the deletion of the snapshot ${snapshot.name} has not come to its end: delete it again`];
}
