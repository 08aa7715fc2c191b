import type {PointManifest, StoredDisk} from '../../../src/repository/manifest.ts';
import type {Guest} from '../../guest/guest.ts';
import {type Instant, judgePoints, removePoints} from '../harness/points.ts';
import {lastingBitmaps} from '../harness/qemu-state.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage, VmKind} from '../harness/stage.ts';
import {COPYING, CUT_IS_TAKEN, type Place} from '../harness/steps.ts';
import {backup} from './backup.ts';

/** A qcow2 disk keeps its bitmaps when QEMU ends in good order; a raw one, which the VM has too, does not. */
const VM: VmKind = {name: 'qcow2', format: 'qcow2'};

type How = 'push' | 'fleece' | 'clone';

const KILLED_AT: Record<How, readonly Place[]> = {
	fleece: [
		CUT_IS_TAKEN,
		/^qmp -> human-monitor-command #2$/,
		/^qmp -> job-finalize /,
		/^agent <- guest-fsfreeze-freeze /,
		// Between the point and its bitmaps, and in the middle of those.
		/^host rename \.POINT/,
		/^qmp <- block-dirty-bitmap-merge #10$/,
		/^qmp -> block-dirty-bitmap-remove #4$/,
		/^qmp <- transaction #4$/,
	],
	push: [CUT_IS_TAKEN, COPYING, /^qmp -> block-dirty-bitmap-remove #4$/, /^host rename \.POINT/],
	clone: [/^daemon -> blockdev-reopen /, COPYING, /^host rename \.POINT/, /^host rm run\.json /],
};

const SAMPLE: Partial<Record<How, readonly string[]>> = {
	push: ['kill-tool', 'kill-all', 'kill-qemu', 'target-stalled'],
	clone: [
		...['kill-tool', 'kill-with-guard', 'kill-qemu', 'quit-qemu', 'power-cut'],
		...['target-full', 'target-eio', 'target-stalled', 'target-deleted'],
	],
};

const WITHOUT: Record<How, readonly string[]> = {
	fleece: [],
	push: ['scratch-full'],
	// Only ext4 becomes read-only by itself.
	clone: ['target-readonly'],
};

/** A backup of what has changed since a full, as an image on that of the full; `clone`: as a clone of it. */
export function increment(how: How): Scenario {
	const method = how === 'push' ? 'push' : 'fleece';
	const {args, unfinished, guestBears = {}} = backup(method);
	const layout = how === 'clone' ? 'clone' : 'chain';
	let judged = new Map<string, Instant>();
	let guest: Guest | undefined;
	return {
		name: `increment-${how}`,
		vm: VM,
		...(how === 'clone' ? {fileSystem: 'xfs'} : {}),
		arrange: async stage => {
			await removePoints(stage, stage.target);
			// Of the second one the bitmap is to be removed by the run.
			for (const kind of ['full', 'incremental']) {
				await stage.succeed([...args(stage, {slow: false}), '--layout', layout, '--kind', kind]);
			}
			({guest} = stage);
			judged = new Map();
		},
		repository: stage => stage.target,
		args: (stage, {slow}) => [
			...args(stage, {slow: false}),
			...['--layout', layout],
			// Not much has changed.
			...(slow ? ['--speed', '2M'] : []),
		],
		unfinished,
		judge: async (stage, ended) => {
			const before = judged.size;
			const points = await judgePoints(stage, stage.target, judged);
			if (!ended) return;
			const newest = points.at(-1);
			if (!newest || judged.size === before) throw new Error('no further point is there');
			const qemu = await fateOf(stage, guest);
			for (const disk of newest.disks) requireKind(disk, qemu, layout);
			await requireLasting(stage.guest, newest, points);
			await removePoints(stage, stage.target);
		},
		guestBears,
		without: WITHOUT[how],
		at: {'kill-tool': KILLED_AT[how]},
		...(SAMPLE[how] ? {sample: SAMPLE[how]} : {}),
	};
}

type Fate = 'same' | 'killed' | 'ended';

async function fateOf(stage: Stage, before: Guest | undefined): Promise<Fate> {
	if (!before || before === stage.guest) return 'same';
	return (await before.exited).signal === 'SIGKILL' ? 'killed' : 'ended';
}

/** Incremental wherever the bitmap can have lived, and else full, with the reason. */
function requireKind({name, format, kind, reason, layout}: StoredDisk, qemu: Fate, wished: 'chain' | 'clone'): void {
	const isKept = qemu === 'same' || (qemu === 'ended' && format === 'qcow2');
	const said = `${name} (${format}) is ${kind} as ${layout}, because ${reason ?? 'so it should be'}`;
	if (isKept && (kind !== 'incremental' || layout !== wished)) throw new Error(said);
	if (!isKept && (kind !== 'full' || reason === null)) throw new Error(said);
}

/** Once a run has succeeded, a disk has the bitmaps of the newest point and of the full that this goes back to, no other. */
async function requireLasting(guest: Guest, newest: PointManifest, points: readonly PointManifest[]): Promise<void> {
	const there = await lastingBitmaps(guest);
	for (const {name, chain, bitmap} of newest.disks) {
		const full = points.find(({id}) => id === chain)?.disks.find(disk => disk.name === name);
		const wanted = [bitmap?.name ?? '', full?.bitmap?.name ?? ''];
		const tag = wanted[0]!.slice(0, 'qsc-0123456789ab-'.length);
		const found = there.filter(one => one.startsWith(tag));
		if (found.some(one => !wanted.includes(one)) || !found.includes(wanted[0]!)) {
			throw new Error(`${name} has the bitmaps ${found.join(', ')}, and should have ${wanted.join(', ')}`);
		}
	}
}
