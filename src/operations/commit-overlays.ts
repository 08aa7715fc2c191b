import {lastValueFrom} from 'rxjs';
import {isTemporaryOverlay, runOf} from '../block/names.ts';
import type {BlockGraph} from '../block/graph.ts';
import {QuiesceError} from '../errors.ts';
import {endJobs} from '../jobs/end-jobs.ts';
import {removeFile} from '../snapshots/overlay-file.ts';
import {type ActiveCommit, commitActive} from './commit-active.ts';
import type {Session} from './vm-session.ts';

/**
 * Writes what the guest has written to the temporary overlays of a run down into its images, on which the disks then lie
 * again, and removes the overlays. An overlay that is in use is never just removed: it is all that has these writes.
 * Cannot be cancelled. Can be repeated; does nothing where no overlay of the run is in use. Returns the disks.
 */
export async function commitOverlays(vm: Session, run: string, tell: (what: string) => void): Promise<string[]> {
	const overlaid = await commitDown(vm, run, tell, async () => overlaidBy(await vm.readGraph(), run));
	// Nobody is to find one after a power cut, and take it for what the guest wrote last.
	for (const {disk} of overlaid) await removeFile(disk.medium.filename);
	return overlaid.map(({disk}) => disk.name);
}

/** Commits what `find` finds, in the name of a run. Cannot be cancelled, and can be repeated. Returns what it committed. */
export async function commitDown(
	vm: Session,
	run: string,
	tell: (what: string) => void,
	find: () => Promise<readonly ActiveCommit[]>,
): Promise<readonly ActiveCommit[]> {
	if ((await find()).length === 0) return [];
	// A commit of the run itself, or of who recovered from it before us.
	await endJobs(
		vm.qmp,
		(await vm.qmp.execute('query-jobs')).filter(({id}) => runOf(id) === run),
	);
	const overlaid = await find();
	const request = {signal: new AbortController().signal, tell};
	if (overlaid.length > 0) {
		await lastValueFrom(commitActive({request, vm, run: {id: run}}, overlaid), {defaultValue: undefined});
	}
	return overlaid;
}

function overlaidBy({disks}: BlockGraph, run: string): ActiveCommit[] {
	const isOurs = (node: string): boolean => isTemporaryOverlay(node) && runOf(node) === run;
	return disks.flatMap(disk => {
		const {medium} = disk;
		const depth = medium?.chain.findIndex(node => isOurs(node.name)) ?? -1;
		if (!medium || depth < 0) return [];
		const base = medium.chain[depth + 1];
		if (depth === 0 && base) return [{disk: {...disk, medium}, base: base.name}];
		throw new QuiesceError('FAILED', `${disk.name}: another program has put ${medium.node} over our overlay`, {
			hint: `Commit ${medium.node} first; then \`quiesce recover\` brings ${disk.name} back to its image.`,
		});
	});
}
