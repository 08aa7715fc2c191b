import {asError, QuiesceError} from '../errors.ts';
import {removeOverlayNodes} from '../cut/external-snapshot.ts';
import {isThere} from '../repository/durable-files.ts';
import {type PartialSnapshot, removePartialSnapshot} from '../snapshots/partial-snapshot.ts';
import {qemuOf} from './capture-machine.ts';
import type {ActiveCommit} from './commit-active.ts';
import {commitDown} from './commit-overlays.ts';
import {readChains} from './disk-chains.ts';
import {deleteInternal, holdersOf} from './internal-snapshots.ts';
import {type OverlayInUse, overlaysInUse, overlaysOf} from './overlays-in-use.ts';
import {planCommits} from './plan-commit.ts';
import {identify} from './plan-copies.ts';
import {removeMadeOverlays} from './remove-made-overlays.ts';
import {removeFiles} from './settle-merge.ts';
import type {Session} from './vm-session.ts';

/** The VM of an unfinished snapshot, as it is now. */
export type SettlingVm = Session & {
	/** To which names of images are relative, where it is known. */
	readonly qemuFolder: string | undefined;
};

/**
 * Why the overlays of a snapshot could not be committed at once, in words: another job, another program's image over one of them, or
 * a base that cannot be written to. Undefined if they can be.
 */
export async function reasonNotToUndo(vm: SettlingVm, used: readonly OverlayInUse[]): Promise<string | undefined> {
	try {
		used.forEach(requireOnTop);
		await planCommits(await readChains(vm), {disks: used.map(({disk}) => disk.name)});
		return undefined;
	} catch (error) {
		if (error instanceof QuiesceError) return error.message;
		throw error;
	}
}

/**
 * Takes a snapshot back that is marked for it, though it has been cut: what the guest has written to its overlays is
 * written down into the images, on which the disks lie again, and the overlays go. Cannot be cancelled; can be repeated, also by
 * another run. Throws, with what is left, if it does not come to its end: the guest goes on where it is, and the snapshot does
 * not appear, since its images may hold what was written after it. Returns what it did, in words.
 */
export async function undoSnapshot(vm: SettlingVm, partial: PartialSnapshot): Promise<string[]> {
	const {plan} = partial;
	const undone = `took back the snapshot ${plan.name} of run ${plan.run}`;
	if (plan.kind === 'internal') {
		const holders = holdersOf(await vm.readGraph(), plan.name);
		const ours = holders.filter(({disk}) => plan.disks.some(({name}) => name === disk));
		await deleteInternal(vm.qmp, ours, plan.name);
		await removePartialSnapshot(partial.folder);
		return [`${undone}: no image has it any more`];
	}
	const told: string[] = [];
	const committed = await commitBack(vm, partial, text => told.push(text));
	await removeOverlayNodes(
		vm.qmp,
		overlaysOf(plan).map(({node}) => node),
	);
	// Nobody could tell whether a QEMU that was started anew lies on an image with what the overlay has, or without.
	if (!(await isSameQemu(vm, partial)) && plan.disks.some(({name}) => !committed.has(name))) {
		return [...told, ...(await removeMadeOverlays(partial))];
	}
	const kept = await removeCommitted(vm, partial);
	if (kept.length > 0) throw notUndone(partial, kept, undefined);
	await removePartialSnapshot(partial.folder);
	return [...told, `${undone}: each disk lies on its image again`];
}

/** Returns the names of the disks. */
async function commitBack(
	vm: SettlingVm,
	partial: PartialSnapshot,
	tell: (text: string) => void,
): Promise<ReadonlySet<string>> {
	const {plan} = partial;
	const find = async (): Promise<OverlayInUse[]> => overlaysInUse(await vm.readGraph(), plan, vm.qemuFolder);
	let used: OverlayInUse[] = [];
	try {
		await commitDown(vm, plan.run, tell, async () => {
			used = await find();
			return used.map(requireOnTop);
		});
		return new Set(used.map(({name}) => name));
	} catch (error) {
		throw notUndone(
			partial,
			used.map(({overlay}) => overlay.file),
			error,
		);
	}
}

function requireOnTop({name, disk, top, base}: OverlayInUse): ActiveCommit {
	if (base && disk.medium.node === top.name) return {disk, base: base.name};
	throw new QuiesceError('FAILED', `${name}: another program has put ${disk.medium.node} over ${top.name}`);
}

function notUndone({plan}: PartialSnapshot, files: readonly string[], cause: unknown): QuiesceError {
	const overlays = files.length > 0 ? files : overlaysOf(plan).map(({file}) => file);
	const why = cause === undefined ? '' : `: ${asError(cause).message}`;
	return new QuiesceError('FAILED', `the snapshot ${plan.name} could not be taken back${why}`, {
		cause,
		hint: `The guest goes on. What it wrote may be in ${overlays.join(', ')}. \`quiesce recover\` tries again.`,
	});
}

async function isSameQemu(vm: SettlingVm, {plan}: PartialSnapshot): Promise<boolean> {
	const [then, now] = [plan.qemu.process, await identify(await qemuOf(vm))];
	return then !== null && then.bootId === now?.bootId && then.startTicks === now.startTicks;
}

/** Returns the files that were not removed, with the reason. */
async function removeCommitted(vm: SettlingVm, {plan}: PartialSnapshot): Promise<string[]> {
	const {disks} = await vm.readGraph();
	const kept: string[] = [];
	for (const {name, base, overlay} of plan.disks) {
		const into = disks.find(disk => disk.name === name)?.medium?.node;
		if (overlay?.inode == null || into === undefined || !(await isThere(overlay.file))) continue;
		const {file, inode} = overlay;
		const record = {into, flushed: [base.file], files: [{file, inode}]};
		for (const settled of await removeFiles(vm, record)) {
			if (settled.kind === 'kept') kept.push(`${settled.file} (${settled.why ?? ''})`);
		}
	}
	return kept;
}
