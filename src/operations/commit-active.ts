import {concat, concatMap, defer, EMPTY, type Observable} from 'rxjs';
import {carriedBitmaps} from '../block/carried-bitmaps.ts';
import type {BlockGraph} from '../block/graph.ts';
import {layersBetween, nodesAbove} from '../block/layers.ts';
import {objectName} from '../block/names.ts';
import type {ChainJob} from '../jobs/chain-jobs.ts';
import {JobError} from '../jobs/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {scoped} from '../rx/scoped.ts';
import {cancelJobs, type ChainNews, type ChainPace, type ChainWork, refusal, runChange} from './chain-work.ts';
import {mergeBitmaps} from './merge-bitmaps.ts';
import {reachAgain} from './reach-again.ts';
import {removeNodes} from './remove-nodes.ts';
import type {Run} from './run.ts';
import type {DiskWithMedium} from './select-disks.ts';
import type {Session} from './vm-session.ts';
import {lostErrors} from './with-vm.ts';

/** As for any change of chains; a run that is dead by now has nothing but its name. */
type CommitWork = Pick<ChainWork, 'request'> & {readonly vm: Session; readonly run: Pick<Run, 'id'>};

/** A disk as it was read from the graph, and the node of its chain that is to get what the layers above it hold. */
export interface ActiveCommit {
	readonly disk: DiskWithMedium;
	readonly base: string;
}

export type CommitActiveMessage =
	| ChainNews
	/** The bases have all that the guest has written. From here on it cannot be cancelled. */
	| {readonly kind: 'pivoting'}
	/** The guest writes to `node`. Of what was above it, only what `stillUsed` names is left in QEMU. */
	| {readonly kind: 'pivoted'; readonly disk: string; readonly node: string; readonly stillUsed: readonly string[]};

/**
 * Writes what the active layers of disks hold down into bases, while the guest goes on to write, and has the disks pivot
 * to these: all of them, or none if one fails before. Cold. Ends once each disk is shown to lie on its base and the nodes
 * above are deleted; the files are left to the caller. If it fails or is aborted before `pivoting`, the disks lie on what
 * they lay on, and the bases hold what belongs to no instant: nothing is to read them by themselves. A run that is killed
 * leaves jobs of its name, which `unwindInside` cancels, to the same effect.
 */
export function commitActive(
	{request, vm, run}: CommitWork,
	commits: readonly ActiveCommit[],
	pace: ChainPace = {},
): Observable<CommitActiveMessage> {
	const jobs = commits.map(({disk}): ChainJob => ({
		id: objectName(run.id, disk.name),
		label: disk.name,
		waits: 'ready',
	}));
	return defer(() => vm.readGraph()).pipe(
		concatMap(({nodes}) => {
			const above = new Map(
				commits.map(({disk, base}) => [disk.name, nodesAbove(nodes, disk.medium.node, base)] as const),
			);
			const start = async (): Promise<void> => {
				for (const commit of commits) await startCommit(vm.qmp, run.id, commit, pace.speed);
			};
			const carryAll = async (): Promise<string[]> => {
				const lost: string[] = [];
				for (const commit of commits) lost.push(...(await carryDown(vm, commit)));
				return lost;
			};
			const steps = {start, carry: carryAll, ending: 'pivoting' as const};
			const pivoted$ = runChange({request, vm}, jobs, steps, pace);
			return scoped({
				acquire: () => Promise.resolve(),
				release: (_, outcome) => (outcome === 'completed' ? EMPTY : cancel({request, vm, run}, jobs, commits, above)),
				onLostError: lostErrors(request),
				use: () =>
					concat(pivoted$, defer(() => requirePivoted(vm, commits, above)).pipe(concatMap(messages => messages))),
			});
		}),
	);
}

async function startCommit(
	qmp: QmpConnection,
	run: string,
	{disk: {name, medium}, base}: ActiveCommit,
	speed: number | undefined,
): Promise<void> {
	try {
		// Without `auto-finalize: false`, with which the guest would be held between the end and our word.
		await qmp.execute('block-commit', {
			'job-id': objectName(run, name),
			'device': medium.rootNode,
			'top-node': medium.node,
			'base-node': base,
			'filter-node-name': objectName(run, name, 'job'),
			'auto-dismiss': false,
			'on-error': 'report',
			...(speed === undefined ? {} : {speed}),
		});
	} catch (error) {
		throw refusal(name, 'commit', error);
	}
}

async function carryDown(vm: Session, {disk, base}: ActiveCommit): Promise<string[]> {
	const {nodes} = await vm.readGraph();
	const layers = layersBetween(disk.medium, disk.medium.node, base).flatMap(({name}) => nodes.get(name) ?? []);
	const below = nodes.get(base);
	if (!below) return [];
	const problems = await mergeBitmaps(vm.qmp, base, carriedBitmaps(layers, below, 'down'));
	return problems.map(problem => `${disk.name}: ${problem}`);
}

type NodesAbove = ReadonlyMap<string, readonly string[]>;
type Pivoted = Extract<CommitActiveMessage, {kind: 'pivoted'}>;

async function requirePivoted(vm: Session, commits: readonly ActiveCommit[], above: NodesAbove): Promise<Pivoted[]> {
	const pivoted = await removePivoted(vm.qmp, await vm.readGraph(), commits, above);
	const missing = commits.filter(({disk}) => !pivoted.some(one => one.disk === disk.name));
	if (missing.length === 0) return pivoted;
	const names = missing.map(({disk}) => disk.name).join(', ');
	throw new JobError(`${names}: the commit has ended, and yet the disk does not lie on its base`, {
		hint: 'Nothing was removed. `quiesce inspect` shows what the disk lies on.',
	});
}

/** Deletes what was above the base of each disk that lies on that by now. */
async function removePivoted(
	qmp: QmpConnection,
	{disks}: BlockGraph,
	commits: readonly ActiveCommit[],
	above: NodesAbove,
): Promise<Pivoted[]> {
	const pivoted: Pivoted[] = [];
	for (const {disk, base} of commits) {
		if (disks.find(({name}) => name === disk.name)?.medium?.node !== base) continue;
		const stillUsed = await removeNodes(qmp, above.get(disk.name) ?? []);
		pivoted.push({kind: 'pivoted', disk: disk.name, node: base, stillUsed});
	}
	return pivoted;
}

/** A job that was being completed may have had its disk pivot all the same. */
async function cancel(
	{request, vm}: CommitWork,
	jobs: readonly ChainJob[],
	commits: readonly ActiveCommit[],
	above: NodesAbove,
): Promise<void> {
	await reachAgain(vm, async qmp => {
		await cancelJobs(qmp, jobs);
		for (const {disk} of await removePivoted(qmp, await vm.readGraph(qmp), commits, above)) {
			request.tell(`${disk} lies on its base by now, all the same`);
		}
	});
}
