import {concat, concatMap, defer, EMPTY, type Observable, of} from 'rxjs';
import {overlayActions} from '../cut/external-snapshot.ts';
import {timed} from '../cut/timed.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {sharesMounts} from '../host/processes.ts';
import type {SnapshotPlan} from '../snapshots/journal.ts';
import {programVersion} from '../version.ts';
import {captureMachine} from './capture-machine.ts';
import {cutFrozen} from './frozen-cut.ts';
import {memoryCutter, prepareMemory} from './memory-cutter.ts';
import {planSnapshot} from './plan-snapshot.ts';
import {identify} from './plan-copies.ts';
import type {Quiescer} from './quiescer.ts';
import {recoverVm} from './recover.ts';
import {selectSnapshotDisks} from './select-snapshot-disks.ts';
import type {SnapshotMessage, SnapshotRequest} from './snapshot-messages.ts';
import {type SnapshotCutter, type SnapshotTask, takeSnapshot} from './take-snapshot.ts';
import {lookAgain, type VmSession} from './vm-session.ts';
import {type GuardedRun, withGuard} from './with-guard.ts';
import {withQuiescer} from './with-quiescer.ts';
import {withVm} from './with-vm.ts';

/**
 * Takes an external snapshot of a running VM: from one instant on the guest writes to overlays, and its images stay as they
 * are. Cold: each subscription takes one. Ends with `finished`, or fails: before the cut without a trace, after it with the
 * snapshot in place.
 */
export function createSnapshot(request: SnapshotRequest): Observable<SnapshotMessage> {
	refuseFreezeWithMemory(request);
	const doing = `snapshot since ${new Date().toISOString()}`;
	return withVm(request, doing, (vm, run) => {
		const {qmp, agent} = request.sockets;
		return withGuard(request, run, {agent, vm: {qmp, name: vm.name}}, guarded =>
			concat(
				request.dryRun === true ? EMPTY : recoverVm(vm, {snapshots: request.folder}, undefined),
				// It may go on only now.
				defer(() => lookAgain(vm)).pipe(concatMap(now => quiesced(request, now, guarded))),
			),
		);
	});
}

function refuseFreezeWithMemory({memory, quiesce}: SnapshotRequest): void {
	if (memory !== undefined && quiesce === 'require') {
		throw new UsageError('a guest cannot be frozen for a snapshot with its memory: it would be frozen in there', {
			hint: 'Memory and disks are of one instant, so nothing is lost: leave --quiesce out.',
		});
	}
}

function quiesced(request: SnapshotRequest, vm: VmSession, guarded: GuardedRun): Observable<SnapshotMessage> {
	// A guest that was frozen at the instant would be so in the memory.
	const policy = request.memory === undefined ? request.quiesce : 'never';
	return withQuiescer({...request, quiesce: policy}, vm, guarded, (quiescer, whyNot) =>
		concat(
			(quiescer?.recovered ?? []).map(text => ({kind: 'recovered' as const, text})),
			defer(() => prepare(request, vm, guarded, quiescer, whyNot)).pipe(concatMap(snapshot$ => snapshot$)),
		),
	);
}

async function prepare(
	request: SnapshotRequest,
	vm: VmSession,
	guarded: GuardedRun,
	quiescer: Quiescer | undefined,
	whyNotQuiesced: string | undefined,
): Promise<Observable<SnapshotMessage>> {
	request.signal.throwIfAborted();
	const {run, guard} = guarded;
	const {qemuUid, ...prepared} = await prepareSnapshot(request, vm, run);
	const degraded = whyNotQuiesced === undefined ? [] : [`crash-consistent only: ${whyNotQuiesced}`];
	const task: SnapshotTask = {
		...prepared,
		plan: {...prepared.plan, warnings: [...degraded, ...prepared.plan.warnings]},
	};
	const {plan, planned} = task;
	const {memory} = request;
	const cutter =
		memory === undefined
			? frozenCutter(request, vm, quiescer, plan.name)
			: memoryCutter({request: {...request, memory}, vm, guarded, qemuUid, mark: await prepareMemory(vm, memory)});
	// Before it is at work nothing may be begun.
	await guard.ready();
	return concat(
		plan.warnings.map(text => ({kind: 'warning' as const, text})),
		of<SnapshotMessage>({
			kind: 'planned',
			vm: vm.name,
			snapshot: plan.name,
			disks: planned.overlays.map(({record: {name, sizeBytes, base, overlay}}) => ({
				...{name, sizeBytes, base: base.file, overlay: overlay.file},
			})),
			skipped: plan.skipped,
			quiesce: quiescer !== undefined,
		}),
		request.dryRun === true ? EMPTY : takeSnapshot(task, cutter).pipe(concatMap(insist)),
	);

	/** The cut cannot be taken back; under `require` it is a failure all the same. */
	function insist(message: SnapshotMessage): Observable<SnapshotMessage> {
		if (message.kind !== 'finished' || request.quiesce !== 'require') return of(message);
		const {name, consistency, warnings} = message.manifest;
		if (consistency === 'quiesced') return of(message);
		throw new AgentError(`the snapshot ${name} is crash-consistent only: ${warnings.join('; ')}`, {
			hint: `It is there, as the guest writes to its overlays: quiesce snapshot delete ${vm.name} ${name} removes it.`,
		});
	}
}

/** What has to be known of a VM before any snapshot with overlays. Changes nothing. */
async function prepareSnapshot(
	request: SnapshotRequest,
	vm: VmSession,
	run: SnapshotTask['run'],
): Promise<SnapshotTask & {readonly qemuUid: number | undefined}> {
	const graph = await vm.readGraph();
	const selected = selectSnapshotDisks(graph, await vm.qmp.execute('x-debug-query-block-graph'), request);
	const {machine, qemu, qemuUid} = await captureMachine(vm, graph);
	if (qemu && !(await sharesMounts(qemu.pid))) {
		throw new QuiesceError(
			'REFUSED',
			'its QEMU has a mount namespace of its own, so it cannot open an overlay of ours',
			{
				hint: 'Run the program where QEMU runs, as in its container.',
			},
		);
	}
	const planned = await planSnapshot({vm, run: run.id, graph, qemu, selected}, request);
	const plan: SnapshotPlan = {
		name: planned.name,
		vm: vm.name,
		uuid: vm.uuid ?? null,
		run: run.id,
		kind: 'external',
		qemu: {version: vm.version, package: vm.qmp.version.package, process: await identify(qemu)},
		tool: {version: programVersion()},
		disks: planned.overlays.map(({record}) => record),
		skipped: selected.skipped,
		warnings: planned.warnings,
	};
	return {request, vm, run, planned, plan, machine, qemuFolder: qemu?.cwd, qemuUid};
}

function frozenCutter(
	request: SnapshotRequest,
	{qmp}: VmSession,
	quiescer: Quiescer | undefined,
	snapshot: string,
): SnapshotCutter {
	return {
		wants: 'disks',
		cut: disks =>
			cutFrozen({...request, called: snapshot}, quiescer, async () => {
				const ms = await timed(() => qmp.execute('transaction', {actions: overlayActions(disks)}));
				return {standstill: {of: 'disks', seconds: ms / 1000}};
			}),
	};
}
