import {concat, concatMap, defer, EMPTY, type Observable} from 'rxjs';
import {carriedBitmaps} from '../block/carried-bitmaps.ts';
import {layersBetween, nodesAbove} from '../block/layers.ts';
import {objectName} from '../block/names.ts';
import type {BlockNode, BlockNodes} from '../block/nodes.ts';
import type {ChainJob} from '../jobs/chain-jobs.ts';
import {JobError} from '../jobs/errors.ts';
import {scoped} from '../rx/scoped.ts';
import {cancelJobs, type ChainNews, type ChainPace, type ChainWork, refusal, runChange} from './chain-work.ts';
import {mergeBitmaps} from './merge-bitmaps.ts';
import {reachAgain} from './reach-again.ts';
import {removeNodes} from './remove-nodes.ts';
import type {DiskWithMedium} from './select-disks.ts';
import type {Session} from './vm-session.ts';
import {lostErrors} from './with-vm.ts';

/** A merge of layers that leaves the disk on the image that it lies on. Nodes are format nodes of its chain. */
export type LayerMerge = {readonly disk: DiskWithMedium} & (
	| {
			/** Writes what `top`, which is not the active layer, and the layers between hold into `base`. */
			readonly kind: 'commit';
			readonly top: string;
			readonly base: string;
			/** By which the layer above `top` is to name the base; QEMU's own name for it if undefined. */
			readonly backingFile?: string | undefined;
	  }
	| {
			/** Pulls what lies between `top` and `base` up into `top`; all that is beneath if there is no base. */
			readonly kind: 'stream';
			readonly top: string;
			readonly base?: string | undefined;
			readonly backingFile?: string | undefined;
	  }
);

export type MergeLayersMessage =
	| ChainNews
	/** Everything is copied. From here on it cannot be cancelled. */
	| {readonly kind: 'settling'}
	/** `node` holds what the layers held that have left the chain, of which `stillUsed` names what is left in QEMU. */
	| {readonly kind: 'merged'; readonly disk: string; readonly node: string; readonly stillUsed: readonly string[]};

/**
 * Merges layers of chains while the guest goes on to write: one merge a disk, all of them or none if one fails before the
 * end. Cold. Ends once the chains are shown to lack the layers and their nodes are deleted; the files are left to the
 * caller. If it fails or is aborted before `settling` the chains are as they were; a base of a commit then holds what belongs to no
 * instant. A run that is killed leaves jobs of its name, which `unwindInside` cancels, to the same effect.
 */
export function mergeLayers(
	{request, vm, run}: ChainWork,
	merges: readonly LayerMerge[],
	pace: ChainPace = {},
): Observable<MergeLayersMessage> {
	const jobs = merges.map(({disk}): ChainJob => ({
		id: objectName(run.id, disk.name),
		label: disk.name,
		waits: 'pending',
	}));
	return defer(() => vm.readGraph()).pipe(
		concatMap(({nodes}) => {
			const going = new Map(merges.map(merge => [merge.disk.name, goingNodes(nodes, merge)] as const));
			const start = async (): Promise<void> => {
				for (const merge of merges) await startMerge(vm, run.id, merge, pace.speed);
			};
			const carryAll = async (): Promise<string[]> => {
				const lost: string[] = [];
				for (const merge of merges) lost.push(...(await carry(vm, merge)));
				return lost;
			};
			const steps = {start, carry: carryAll, ending: 'settling' as const};
			const done$ = runChange({request, vm}, jobs, steps, pace);
			return scoped({
				acquire: () => Promise.resolve(),
				release: (_, outcome) =>
					outcome === 'completed' ? EMPTY : defer(async () => reachAgain(vm, qmp => cancelJobs(qmp, jobs))),
				onLostError: lostErrors(request),
				use: () => concat(done$, defer(() => requireMerged(vm, merges, going)).pipe(concatMap(messages => messages))),
			});
		}),
	);
}

/** The layers that leave the chain, the top first. */
function goingLayers(merge: LayerMerge): readonly BlockNode[] {
	const {disk, kind, top, base} = merge;
	if (kind === 'commit') return layersBetween(disk.medium, top, base);
	const below = disk.medium.chain.slice(disk.medium.chain.findIndex(({name}) => name === top) + 1);
	return base === undefined
		? below
		: below.slice(
				0,
				below.findIndex(({name}) => name === base),
			);
}

function receiverOf(merge: LayerMerge): string {
	return merge.kind === 'commit' ? merge.base : merge.top;
}

function goingNodes(nodes: BlockNodes, merge: LayerMerge): readonly string[] {
	const [first] = goingLayers(merge);
	return first ? nodesAbove(nodes, first.name, merge.base) : [];
}

async function startMerge(vm: Session, run: string, merge: LayerMerge, speed: number | undefined): Promise<void> {
	const {disk, kind, top, base, backingFile} = merge;
	const common = {
		'job-id': objectName(run, disk.name),
		'filter-node-name': objectName(run, disk.name, 'job'),
		'auto-finalize': false,
		'on-error': 'report' as const,
		...(backingFile === undefined ? {} : {'backing-file': backingFile}),
		...(speed === undefined ? {} : {speed}),
	};
	try {
		if (kind === 'commit') {
			const {rootNode: device} = disk.medium;
			await vm.qmp.execute('block-commit', {
				...common,
				'device': device,
				'top-node': top,
				'base-node': base,
				'auto-dismiss': false,
			});
		} else {
			await vm.qmp.execute('block-stream', {
				...common,
				'device': top,
				...(base === undefined ? {} : {'base-node': base}),
				'auto-dismiss': dismissesItself(vm),
			});
		}
	} catch (error) {
		throw refusal(disk.name, kind, error);
	}
}

/** Before 11.1 QEMU crashes when it is asked for its nodes while a stream is concluded and not dismissed. */
function dismissesItself({qmp}: Session): boolean {
	const {major, minor} = qmp.version.qemu;
	return major < 11 || (major === 11 && minor < 1);
}

async function carry(vm: Session, merge: LayerMerge): Promise<string[]> {
	const {nodes} = await vm.readGraph();
	const into = nodes.get(receiverOf(merge));
	if (!into) return [];
	const layers = goingLayers(merge).flatMap(({name}) => nodes.get(name) ?? []);
	const carried = carriedBitmaps(layers, into, merge.kind === 'commit' ? 'down' : 'up');
	const problems = await mergeBitmaps(vm.qmp, into.name, carried);
	return problems.map(problem => `${merge.disk.name}: ${problem}`);
}

async function requireMerged(
	vm: Session,
	merges: readonly LayerMerge[],
	going: ReadonlyMap<string, readonly string[]>,
): Promise<MergeLayersMessage[]> {
	const {disks} = await vm.readGraph();
	const messages: MergeLayersMessage[] = [];
	for (const merge of merges) {
		const {name} = merge.disk;
		const chain = disks.find(disk => disk.name === name)?.medium?.chain.map(node => node.name) ?? [];
		const node = receiverOf(merge);
		if (!chain.includes(node) || goingLayers(merge).some(layer => chain.includes(layer.name))) {
			throw new JobError(`${name}: the ${merge.kind} has ended, and yet its layers are not merged`, {
				hint: 'No file was removed. `quiesce inspect` shows what the disk lies on.',
			});
		}
		const stillUsed = await removeNodes(vm.qmp, going.get(name) ?? []);
		messages.push({kind: 'merged', disk: name, node, stillUsed});
	}
	return messages;
}
