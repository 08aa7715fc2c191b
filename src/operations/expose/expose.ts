import {concat, concatMap, defer, ignoreElements, type Observable, of} from 'rxjs';
import {warnings as warningsOf} from '../../block/coverage.ts';
import {isMarked} from '../../cut/bitmap-mark.ts';
import type {Bitmap} from '../../cut/cut.ts';
import {QuiesceError, UsageError} from '../../errors.ts';
import type {HostProcess} from '../../host/processes.ts';
import {requireTlsOverTcp} from '../../nbd/tls.ts';
import {readExposed, requireBaseName} from '../../repository/exposed.ts';
import type {QemuProcess} from '../../repository/manifest.ts';
import {resolvePoint} from '../../repository/points.ts';
import {openOrCreateRepository, openRepository, type Repository} from '../../repository/repository.ts';
import {scoped} from '../../rx/scoped.ts';
import type {BlockGraph} from '../../block/graph.ts';
import {captureMachine} from '../capture-machine.ts';
import {checkScratch} from '../check-space.ts';
import {chooseMethod, requireSafeExports} from '../choose-method.ts';
import {unwind} from '../copy-disks.ts';
import type {CopyTask} from '../copy-task.ts';
import {ALONE} from '../group.ts';
import {gatherChanges} from '../keep-bitmaps.ts';
import {planCopies, wholeCopy} from '../plan-copies.ts';
import {prepareView} from '../prepare-cut.ts';
import type {Quiescer} from '../quiescer.ts';
import {recoverVm} from '../recover.ts';
import {type DiskWithMedium, selectDisks} from '../select-disks.ts';
import {takeCut} from '../take-cut.ts';
import {lookAgain, type VmSession} from '../vm-session.ts';
import {type GuardedRun, withGuard} from '../with-guard.ts';
import {withQuiescer} from '../with-quiescer.ts';
import {lostErrors, withVm} from '../with-vm.ts';
import type {ExposeMessage, ExposeRequest} from './expose-messages.ts';
import {commitExposure} from './commit-exposure.ts';
import {type Exports, openExports} from './open-exports.ts';
import {whileExposed} from './while-exposed.ts';

interface ExposeTask extends CopyTask {
	readonly request: ExposeRequest;
	/** The point's id, or what was exposed by that name. */
	readonly since: string | null;
	readonly repository: Repository | undefined;
	readonly qemuProcess: QemuProcess | null;
	/** What was exposed that a commit takes the place of. */
	readonly replaces: string | undefined;
}

/**
 * Shows what a VM's disks hold at one instant over NBD, read-only, while the guest goes on. Cold. Ends with `finished` once
 * the command has ended or, without one, the signal came; or fails. Either way nothing is left in the VM.
 */
export function expose(request: ExposeRequest): Observable<ExposeMessage> {
	requireCommittable(request);
	requireTlsOverTcp(request.listen, request.tls);
	const doing = `exposure since ${new Date().toISOString()}`;
	return withVm(request, doing, (vm, run) => {
		const {qmp, agent} = vm.sockets;
		return withGuard(request, run, {agent, vm: {qmp, name: vm.name}}, guarded =>
			concat(
				recoverVm(vm, request, undefined),
				// It may go on only now.
				defer(() => lookAgain(vm)).pipe(concatMap(now => quiesced(request, now, guarded))),
			),
		);
	});
}

function requireCommittable({commit, command, repository}: ExposeRequest): void {
	if (commit === undefined) return;
	requireBaseName(commit);
	if (repository === undefined) throw new UsageError('no repository is named, which is to know what is committed');
	if (command === undefined) {
		throw new UsageError('without a command nobody says whether what was read is whole, so nothing can be committed', {
			hint: 'Name the command that reads the disks, behind --.',
		});
	}
}

function quiesced(request: ExposeRequest, vm: VmSession, guarded: GuardedRun): Observable<ExposeMessage> {
	return withQuiescer(request, vm, guarded, (quiescer, whyNot) => prepare(request, vm, guarded, quiescer, whyNot));
}

async function prepare(
	request: ExposeRequest,
	vm: VmSession,
	guarded: GuardedRun,
	quiescer: Quiescer | undefined,
	whyNotQuiesced: string | undefined,
): Promise<Observable<ExposeMessage>> {
	request.signal.throwIfAborted();
	const graph = await vm.readGraph();
	const {disks} = selectDisks(graph, request);
	requireSafeExports(vm, disks);
	const {qemu, qemuUid} = await captureMachine(vm, graph);
	const chosen = await chooseMethod({scratch: request.scratch}, vm, disks, qemu);
	if (chosen.method !== 'fleece') {
		throw new QuiesceError('REFUSED', `the disks of this VM cannot be exposed: ${chosen.because ?? ''}`, {
			hint: 'Use `quiesce backup` or `quiesce export`, which can do without.',
		});
	}
	// Before it is at work nothing may be begun.
	await guarded.guard.ready();
	const {unproved, ...planned} = await copiesOf(request, vm, guarded, {graph, disks, qemu});
	const task: ExposeTask = {
		...{request, vm, quiescer, qemuUid, chosen, member: ALONE},
		...planned,
		...guarded,
	};
	const warnings = [
		...(whyNotQuiesced === undefined ? [] : [`crash-consistent only: ${whyNotQuiesced}`]),
		...unproved,
		...disks.flatMap(disk => warningsOf(disk)),
		...(await checkScratch(chosen, disks)),
	];
	return concat(
		warnings.map(text => ({kind: 'warning' as const, text})),
		exposed(task),
	);
}

interface Found {
	readonly graph: BlockGraph;
	readonly disks: readonly DiskWithMedium[];
	readonly qemu: HostProcess | undefined;
}

interface Planned extends Pick<ExposeTask, 'since' | 'copies' | 'repository' | 'qemuProcess' | 'replaces'> {
	readonly unproved: readonly string[];
}

/** With the bitmaps that are shown to have seen every write since; nothing new is recorded, but for a commit. */
async function copiesOf(
	{since: asked, commit, repository: folder}: ExposeRequest,
	vm: VmSession,
	{run}: GuardedRun,
	{graph, disks, qemu}: Found,
): Promise<Planned> {
	if (folder === undefined || (asked === undefined && commit === undefined)) {
		return {since: null, copies: disks.map(wholeCopy), unproved: [], ...NO_REPOSITORY};
	}
	const repository = await (commit === undefined ? openRepository(folder) : openOrCreateRepository(folder));
	const exposed = asked === undefined ? undefined : await readExposed(repository, vm.name, asked);
	const since = asked === undefined ? null : (exposed?.name ?? (await pointNamed(repository, vm.name, asked)));
	const looksForMark = ({name, medium}: DiskWithMedium, bitmap: Bitmap): Promise<boolean> =>
		isMarked(vm, run.id, {name, sizeBytes: medium.virtualSize, node: medium.node}, bitmap);
	const {copies, qemuProcess} = await planCopies(
		{...{vm, repository, nodes: graph.nodes, disks, qemu, exposed}, sink: 'inline', isMarked: looksForMark},
		since === null ? {kind: 'full'} : {kind: 'incremental', since},
	);
	return {
		...{since, repository, qemuProcess, replaces: exposed?.name},
		copies: commit === undefined ? copies.map(copy => ({...copy, granularity: undefined})) : copies,
		unproved:
			since === null
				? []
				: copies.flatMap(({disk, parent, reason}) =>
						parent ? [] : [`${disk.name}: all of it may have changed since ${since}: ${reason ?? 'it is unknown'}`],
					),
	};
}

async function pointNamed(repository: Repository, vm: string, asked: string): Promise<string> {
	if (/^\d{4}-/.test(asked)) return (await resolvePoint(repository, vm, asked)).id;
	throw new UsageError(`of ${vm} nothing was committed as '${asked}' that is still to be gone by`, {
		hint: '--since names a point, as `quiesce list` shows them, or what an earlier exposure has committed (--commit).',
	});
}

const NO_REPOSITORY = {repository: undefined, qemuProcess: null, replaces: undefined} as const;

/** The readers around what is in QEMU: each is ended before what it reads from goes. */
function exposed(task: ExposeTask): Observable<ExposeMessage> {
	const {request, vm, since} = task;
	const onLostError = lostErrors(request);
	const broken = new AbortController();
	let exitStatus: number | null = null;
	const shown$ = scoped({
		acquire: () =>
			openExports(task, error => {
				broken.abort(error);
			}),
		release: (exports: Exports) => exports.close(),
		onLostError,
		use: ({disks}) =>
			concat(
				of<ExposeMessage>({kind: 'exposed', vm: vm.name, since, exports: disks}),
				defer(async () => {
					exitStatus = await whileExposed(task, disks, broken);
				}).pipe(ignoreElements()),
			),
	});
	const inside$ = scoped({
		acquire: () => Promise.resolve(),
		release: () => unwind(task),
		onLostError,
		use: () =>
			defer(() => cut(task)).pipe(
				concatMap(taken =>
					concat(
						of(taken),
						shown$,
						defer(() => committed(task, taken.at, exitStatus)).pipe(concatMap(messages => messages)),
					),
				),
			),
	});
	return concat(
		inside$,
		defer(() => of<ExposeMessage>({kind: 'finished', vm: vm.name, exitStatus})),
	);
}

/** Nobody reads any more, and the bitmaps still record. */
async function committed(
	task: ExposeTask,
	cutAt: string,
	exitStatus: number | null,
): Promise<readonly ExposeMessage[]> {
	const {vm, repository, qemuProcess, replaces, request} = task;
	const {commit: name} = request;
	if (name === undefined || !repository || exitStatus !== 0) return [];
	await commitExposure(task, {repository, name, cutAt, qemuProcess, since: replaces});
	return [{kind: 'committed', vm: vm.name, name}];
}

async function cut(task: ExposeTask): Promise<Extract<ExposeMessage, {kind: 'cut'}>> {
	await gatherChanges(task);
	const view = await prepareView(task);
	const record = await takeCut(task, 'an exposure', view);
	await view.show();
	task.request.signal.throwIfAborted();
	return {kind: 'cut', ...record};
}
