import {concat, concatMap, defer, EMPTY, type Observable, of} from 'rxjs';
import type {BlockGraph} from '../block/graph.ts';
import {warnings as warningsOf} from '../block/coverage.ts';
import {isMarked} from '../cut/bitmap-mark.ts';
import type {Bitmap} from '../cut/cut.ts';
import {QuiesceError} from '../errors.ts';
import type {HostProcess} from '../host/processes.ts';
import {openOrCreateRepository, previewRepository, type Repository} from '../repository/repository.ts';
import type {BackupMessage, BackupPlan, BackupRequest} from './backup-messages.ts';
import {captureMachine} from './capture-machine.ts';
import {checkScratch, checkSpace} from './check-space.ts';
import {type ChosenMethod, chooseMethod} from './choose-method.ts';
import {ALONE} from './group.ts';
import type {Quiescer} from './quiescer.ts';
import {findOverlayDisks, type OverlayDisk} from './overlay-disks.ts';
import {type DiskCopy, planCopies} from './plan-copies.ts';
import type {PointTask} from './point-task.ts';
import {recoverVm} from './recover.ts';
import {type DiskWithMedium, selectDisks} from './select-disks.ts';
import {takeOverlayPoint} from './take-overlay-point.ts';
import {howStored, takePoint} from './take-point.ts';
import {lookAgain, type Session} from './vm-session.ts';
import {type GuardedRun, withGuard} from './with-guard.ts';
import {withQuiescer} from './with-quiescer.ts';
import {withPoints} from './with-points.ts';
import {lostErrors, withAnyVm} from './with-vm.ts';

/**
 * Takes a point of a VM, running or off, into a repository. Cold: each subscription takes one. Ends with `finished`, after
 * which the point is durable, or fails and leaves nothing of the run behind.
 */
export function backup(request: BackupRequest): Observable<BackupMessage> {
	const doing = `backup since ${new Date().toISOString()}`;
	const {member = ALONE} = request;
	return withAnyVm(request, doing, (vm, run) =>
		defer(() => {
			member.holds(vm.name);
			return (request.dryRun === true ? previewRepository : openOrCreateRepository)(request.repository);
		}).pipe(
			concatMap(repository => {
				const {qmp, agent} = vm.power === 'on' ? vm.sockets : {};
				const guarded = {agent, vm: {qmp, name: vm.name, repository: repository.path}};
				const take = (): Observable<BackupMessage> =>
					withGuard(request, run, guarded, guardedRun =>
						concat(
							request.dryRun === true ? EMPTY : recoverVm(vm, request, repository),
							// It may go on only now.
							defer(() => lookAgain(vm)).pipe(concatMap(now => point(request, now, guardedRun, repository))),
						),
					);
				if (request.dryRun === true) return take();
				return withPoints(repository, vm.name, {run: run.id, doing}, lostErrors(request), take);
			}),
		),
	);
}

function point(
	request: BackupRequest,
	vm: Session,
	guarded: GuardedRun,
	repository: Repository,
): Observable<BackupMessage> {
	return withQuiescer(request, vm, guarded, (quiescer, whyNot) =>
		prepare(request, vm, guarded, repository, quiescer, whyNot),
	);
}

async function prepare(
	request: BackupRequest,
	vm: Session,
	{run, guard}: GuardedRun,
	repository: Repository,
	quiescer: Quiescer | undefined,
	whyNotQuiesced: string | undefined,
): Promise<Observable<BackupMessage>> {
	request.signal.throwIfAborted();
	const graph = await vm.readGraph();
	const {disks, skipped} = selectDisks(graph, request);
	const {machine, qemu, qemuUid} = await captureMachine(vm, graph);
	const chosen = await choose(request, vm, {graph, disks, qemu});
	const looksForMark = async ({name, medium}: DiskWithMedium, bitmap: Bitmap): Promise<boolean> => {
		await guard.ready();
		return isMarked(vm, run.id, {name, sizeBytes: medium.virtualSize, node: medium.node}, bitmap);
	};
	const found = {vm, repository, nodes: graph.nodes, disks, qemu, sink: request.sink};
	const planned = await planCopies(request.dryRun === true ? found : {...found, isMarked: looksForMark}, {
		...request,
		...(chosen.overlays ? {kind: 'full'} : {}),
	});
	const {qemuProcess} = planned;
	const copies = chosen.overlays ? wholeImages(planned.copies, chosen.overlays, request) : planned.copies;
	const space = [
		...(await checkSpace(
			repository.path,
			request.compression,
			copies.filter(({layout, parent}) => layout !== 'clone' || parent),
		)),
		...(await checkScratch(chosen, disks)),
	];
	const degraded = whyNotQuiesced === undefined ? [] : [`crash-consistent only: ${whyNotQuiesced}`];
	const instead = chosen.because === undefined ? [] : [`method push, for which the guest can wait: ${chosen.because}`];
	const unproved = request.hashes === 'none' ? ['the images are not hashed: damage to them will not be noticed'] : [];
	const warnings = [
		...degraded,
		...instead,
		...unproved,
		...planned.warnings,
		...disks.flatMap(disk => warningsOf(disk)),
		...space,
	];
	const plan: BackupPlan = {
		vm: vm.name,
		run: run.id,
		disks: copies.map(({disk: {name, medium}, kind, reason, parent, layout}) => ({
			...{name, sizeBytes: medium.virtualSize, format: medium.format, kind, reason, layout},
			parent: parent?.point ?? null,
			changedBytes: parent?.bytes ?? null,
		})),
		skipped,
		power: vm.power,
		quiesce: quiescer !== undefined,
		method: chosen.method,
		...howStored({request, chosen}),
	};
	// Before it is at work nothing may be begun.
	await guard.ready();
	return concat(
		warnings.map(text => ({kind: 'warning' as const, text})),
		of({kind: 'planned' as const, plan}),
		request.dryRun === true
			? EMPTY
			: taken({
					...{request, vm, run, guard, repository, quiescer, copies, skipped, warnings, machine, qemuUid, chosen},
					...{qemuProcess, member: request.member ?? ALONE},
				}),
	);
}

function taken(task: PointTask): Observable<BackupMessage> {
	const {overlays} = task.chosen;
	return overlays ? takeOverlayPoint(task, overlays) : takePoint(task);
}

interface Found {
	readonly graph: BlockGraph;
	readonly disks: readonly DiskWithMedium[];
	readonly qemu: HostProcess | undefined;
}

async function choose(request: BackupRequest, vm: Session, found: Found): Promise<ChosenMethod> {
	const {method} = request;
	if (method !== 'overlay') return chooseMethod({...request, method}, vm, found.disks, found.qemu);
	if (vm.power === 'off') {
		throw new QuiesceError('REFUSED', 'the VM is off: nothing writes to its images, and no overlay is needed', {
			hint: 'Leave out --method overlay.',
		});
	}
	const debugGraph = await vm.qmp.execute('x-debug-query-block-graph');
	const overlays = await findOverlayDisks(request, found.disks, {...found, debugGraph});
	if (request.hashes === 'none') requireShared(overlays, request);
	return {method, scratchFolders: new Map(), overlays};
}

/** A copy of another kind has to be read or written in any case. */
function requireShared(overlays: readonly OverlayDisk[], {repository}: Pick<BackupRequest, 'repository'>): void {
	const apart = overlays.find(({copyBy}) => copyBy !== 'reflink');
	if (!apart) return;
	throw new QuiesceError(
		'REFUSED',
		`${apart.disk.name} cannot share its data with ${repository}, so it has to be hashed`,
		{
			hint: 'Leave out --no-hashes. Data is shared by images of one file each, on the XFS or btrfs of the repository.',
		},
	);
}

/** No image is copied in part; one whose data is shared costs nothing at first. */
function wholeImages(
	copies: readonly DiskCopy[],
	overlays: readonly OverlayDisk[],
	{kind, hashes}: Pick<BackupRequest, 'kind' | 'hashes'>,
): DiskCopy[] {
	const asked = kind === 'incremental' || kind === 'differential';
	return copies.map(copy => {
		const isShared = overlays.some(({disk, copyBy}) => disk.name === copy.disk.name && copyBy === 'reflink');
		return {
			...copy,
			reason: asked ? 'with the method overlay images are copied whole' : null,
			layout: isShared ? 'clone' : 'alone',
			// Nothing is to be based on what nobody could prove.
			...(hashes === 'none' ? {granularity: undefined} : {}),
		};
	});
}
