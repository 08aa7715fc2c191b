import fs from 'node:fs/promises';
import {concat, concatMap, defer, EMPTY, from, type Observable, of} from 'rxjs';
import {nodesAbove} from '../block/layers.ts';
import type {BlockNodes} from '../block/nodes.ts';
import {tellWhatIsMerged, tellWhatIsSpoiled} from '../snapshots/retell.ts';
import type {Snapshot} from '../snapshots/snapshots.ts';
import {clearJournal, type MergeRecord, noteMerged, writeJournal} from './chain-journal.ts';
import type {ChainNews, ChainPace, ChainWork} from './chain-work.ts';
import {commitActive} from './commit-active.ts';
import type {VmChains} from './disk-chains.ts';
import {type LayerMerge, mergeLayers} from './merge-layers.ts';
import {imagesOf, type MergePlan} from './merge-plan.ts';
import {removeFiles, type SettledFile} from './settle-merge.ts';

export type MergeChainsMessage =
	| ChainNews
	/** All is copied. From here on it cannot be cancelled. */
	| {readonly kind: 'settling'}
	/** The layers have left the disk's chain. `liesOn` is the image that the guest writes to now. */
	| {readonly kind: 'merged'; readonly disk: string; readonly into: string; readonly liesOn: string}
	| SettledFile;

export interface MergeChainsOptions extends ChainPace {
	/** What becomes of the files of the layers, once they have left their chains and nothing uses them. */
	readonly files: 'keep' | 'remove';
	/** All that are known of the VM: some of them lie on the layers. */
	readonly snapshots: readonly Snapshot[];
}

/**
 * Carries out merges that were planned, one a disk: all of a kind together, and all of them or none if one fails before
 * `settling`. Cold; for the holder of the VM's lock. What a run that is killed leaves is settled by `recover`, from the
 * journal in its folder.
 */
export function mergeChains(
	work: ChainWork,
	{graph, qemu}: VmChains,
	plans: readonly MergePlan[],
	{files, snapshots, ...pace}: MergeChainsOptions,
): Observable<MergeChainsMessage> {
	return defer(async () => {
		const merges = await Promise.all(plans.map(plan => recordOf(graph.nodes, plan, files)));
		const identity = qemu ? {pid: qemu.pid, startTicks: qemu.startTicks} : null;
		await writeJournal(work.run.folder, {vm: work.vm.lockKey, qemu: identity, merges});
		await tellWhatIsSpoiled(
			snapshots,
			merges.flatMap(({images}) => images ?? []),
		);
		return merges;
	}).pipe(
		concatMap(records => {
			const settle = (disk: string, stillUsed: readonly string[]): Observable<MergeChainsMessage> => {
				const plan = plans.find(candidate => candidate.disk.name === disk);
				const record = records.find(candidate => candidate.disk === disk);
				return plan && record ? settled(work, {plan, record, stillUsed, snapshots}) : EMPTY;
			};
			const [active, others] = [plans.filter(isActive), plans.filter(plan => !isActive(plan))];
			return concat(
				active.length === 0 ? EMPTY : pivoting(work, active, pace, settle),
				others.length === 0 ? EMPTY : merging(work, others, pace, settle),
				defer(() => clearJournal(work.run.folder)).pipe(concatMap(() => EMPTY)),
			);
		}),
	);
}

type Settle = (disk: string, stillUsed: readonly string[]) => Observable<MergeChainsMessage>;

function pivoting(
	work: ChainWork,
	plans: readonly MergePlan[],
	pace: ChainPace,
	settle: Settle,
): Observable<MergeChainsMessage> {
	const commits = plans.map(({disk, into}) => ({disk, base: into.node.name}));
	return commitActive(work, commits, pace).pipe(
		concatMap(message => {
			if (message.kind === 'pivoting') return of({kind: 'settling' as const});
			return message.kind === 'pivoted' ? settle(message.disk, message.stillUsed) : of(message);
		}),
	);
}

function merging(
	work: ChainWork,
	plans: readonly MergePlan[],
	pace: ChainPace,
	settle: Settle,
): Observable<MergeChainsMessage> {
	return mergeLayers(work, plans.map(layerMergeOf), pace).pipe(
		concatMap(message => (message.kind === 'merged' ? settle(message.disk, message.stillUsed) : of(message))),
	);
}

function isActive({kind}: MergePlan): boolean {
	return kind === 'active';
}

function layerMergeOf({disk, kind, into, going, below, backingFile}: MergePlan): LayerMerge {
	return kind === 'stream'
		? {kind, disk, top: into.node.name, base: below?.node.name, backingFile}
		: {kind: 'commit', disk, top: going[0].node.name, base: into.node.name, backingFile};
}

/** Only files have a name that can be removed; a device is left as it is. */
async function recordOf(nodes: BlockNodes, plan: MergePlan, files: 'keep' | 'remove'): Promise<MergeRecord> {
	const {disk, kind, into, going, namedBy, below} = plan;
	const found: {file: string; inode: number}[] = [];
	for (const {file} of files === 'keep' ? [] : going) {
		const stat = file === undefined ? undefined : await fs.lstat(file);
		if (file !== undefined && stat?.isFile() === true) found.push({file, inode: stat.ino});
	}
	return {
		disk: disk.name,
		into: into.node.name,
		flushed: [into, namedBy].flatMap(layer => layer?.file ?? []),
		layers: going.map(({node}) => node.name),
		nodes: [...nodesAbove(nodes, going[0].node.name, (kind === 'stream' ? below : into)?.node.name)],
		files: found,
		merged: false,
		images: imagesOf(plan, files === 'remove') ?? null,
	};
}

interface Settling {
	readonly plan: MergePlan;
	readonly record: MergeRecord;
	readonly stillUsed: readonly string[];
	readonly snapshots: readonly Snapshot[];
}

function settled({vm, run}: ChainWork, {plan, record, stillUsed, snapshots}: Settling): Observable<MergeChainsMessage> {
	const {disk, kind, into, going} = plan;
	const liesOn = kind === 'active' ? into.name : disk.medium.filename;
	const left = going.filter(({file}) => !record.files.some(other => other.file === file));
	return concat(
		of({kind: 'merged' as const, disk: disk.name, into: into.name, liesOn}),
		stillUsed.map(node => ({kind: 'warning' as const, text: `${disk.name}: something still uses the node ${node}`})),
		// Before the files go: a run that dies is then still known to have merged them.
		defer(async () => {
			if (vm.power === 'off') await noteMerged(run.folder, disk.name);
			await tellWhatIsMerged(snapshots, record.images ? [record.images] : []);
		}).pipe(concatMap(() => EMPTY)),
		defer(() => removeFiles(vm, record)).pipe(concatMap(messages => from(messages))),
		left.map(({name}) => ({kind: 'kept' as const, file: name, why: null})),
	);
}
