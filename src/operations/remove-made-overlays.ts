import {writersOf} from '../host/writers.ts';
import {removeFile, stateOfOverlay} from '../snapshots/overlay-file.ts';
import {type PartialSnapshot, removePartialSnapshot} from '../snapshots/partial-snapshot.ts';
import {overlaysOf} from './overlays-in-use.ts';

/**
 * Removes what was made for a snapshot of which nothing came: all of it or nothing, since where one overlay has been written to,
 * the VM may be started from all of them. Needs no VM. Returns what it did, in words.
 */
export async function removeMadeOverlays({plan, folder}: PartialSnapshot): Promise<string[]> {
	const overlays = overlaysOf(plan);
	const writers = await writersOf(
		overlays.map(({file}) => file),
		[],
	);
	const kept: string[] = [];
	const unused: string[] = [];
	for (const overlay of overlays) {
		const writer = writers.get(overlay.file);
		const state = await stateOfOverlay(overlay);
		if (state === 'absent' || state === 'foreign') continue;
		if (writer) kept.push(`${overlay.file} is in use by process ${writer.pid} (${writer.name})`);
		else if (state === 'written') kept.push(`${overlay.file} has been written to`);
		else unused.push(overlay.file);
	}
	if (kept.length > 0) {
		return [
			`left the unfinished snapshot ${plan.name} of run ${plan.run} in ${folder}: ${kept.join('; ')}: ` +
				'if the VM is to go on from its overlays, start it from them; else remove them, and that folder, by hand',
		];
	}
	for (const file of unused) await removeFile(file);
	await removePartialSnapshot(folder);
	return [`removed the unfinished snapshot ${plan.name} of run ${plan.run}`];
}
