import {concat, concatMap, defer, EMPTY, type Observable, of} from 'rxjs';
import {overlayActions} from '../cut/external-snapshot.ts';
import {internalSnapshotActions} from '../cut/internal-snapshot.ts';
import {timed} from '../cut/timed.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {AgentError} from '../guest-agent/errors.ts';
import {sharesMounts} from '../host/processes.ts';
import type {SnapshotPlan} from '../snapshots/journal.ts';
import {programVersion} from '../version.ts';
import {captureMachine} from './capture-machine.ts';
import {cutFrozen} from './frozen-cut.ts';
import {ALONE} from './group.ts';
import {insideCutter, prepareMemoryInside} from './inside-cutter.ts';
import {memoryCutter, prepareMemory} from './memory-cutter.ts';
import {planInternalSnapshot} from './plan-internal-snapshot.ts';
import {planSnapshot} from './plan-snapshot.ts';
import {identify} from './plan-copies.ts';
import type {Quiescer} from './quiescer.ts';
import {recoverVm} from './recover.ts';
import {selectSnapshotDisks} from './select-snapshot-disks.ts';
import type {SnapshotMessage, AnySnapshotRequest} from './snapshot-messages.ts';
import {type SnapshotCutter, type SnapshotTask, takeSnapshot} from './take-snapshot.ts';
import {lookAgain, type Session} from './vm-session.ts';
import {type GuardedRun, withGuard} from './with-guard.ts';
import {withQuiescer} from './with-quiescer.ts';
import {withAnyVm} from './with-vm.ts';

/**
 * Takes a snapshot of a VM. External: from one instant on the guest writes to overlays, and its images stay as they are; one
 * that is off is to be started from them. Internal: the images keep in themselves what they held. Cold: each subscription takes one. Ends with `finished`, or
 * fails: before the cut without a trace, after it with the snapshot in place.
 */
export function createSnapshot(request: AnySnapshotRequest): Observable<SnapshotMessage> {
	refuseWithMemory(request);
	const doing = `snapshot since ${new Date().toISOString()}`;
	const {member = ALONE} = request;
	return withAnyVm(request, doing, (vm, run) => {
		const {qmp, agent} = vm.power === 'on' ? vm.sockets : {};
		return withGuard(request, run, {agent, vm: {qmp, name: vm.name}}, guarded =>
			concat(
				defer(() => {
					member.holds(vm.name);
					return EMPTY;
				}),
				request.dryRun === true ? EMPTY : recoverVm(vm, {snapshots: request.folder}, undefined),
				// It may go on only now.
				defer(() => lookAgain(vm)).pipe(concatMap(now => quiesced(request, now, guarded))),
			),
		);
	});
}

function refuseWithMemory({memory, quiesce, kind, member, sockets}: AnySnapshotRequest): void {
	if (memory !== undefined && !('qmp' in sockets)) throw new UsageError('a VM that is off has no memory to save');
	if (memory !== undefined && member) {
		throw new UsageError('the memory of several VMs cannot be saved at one instant, so --memory goes without --group', {
			hint: 'Leave out --memory, or take a snapshot of each VM by itself.',
		});
	}
	if (memory === 'background' && kind === 'internal') {
		throw new UsageError(
			'inside the images QEMU saves the memory of a VM that stands still, and not in the background',
			{
				hint: 'Leave out --internal, or write --memory=stop.',
			},
		);
	}
	if (memory !== undefined && quiesce === 'require') {
		throw new UsageError('a guest cannot be frozen for a snapshot with its memory: it would be frozen in there', {
			hint: 'Memory and disks are of one instant, so nothing is lost: leave --quiesce out.',
		});
	}
}

function quiesced(request: AnySnapshotRequest, vm: Session, guarded: GuardedRun): Observable<SnapshotMessage> {
	// A guest that was frozen at the instant would be so in the memory.
	const policy = request.memory === undefined ? request.quiesce : 'never';
	return withQuiescer({...request, quiesce: policy}, vm, guarded, (quiescer, whyNot) =>
		prepare(request, vm, guarded, quiescer, whyNot),
	);
}

async function prepare(
	request: AnySnapshotRequest,
	vm: Session,
	guarded: GuardedRun,
	quiescer: Quiescer | undefined,
	whyNotQuiesced: string | undefined,
): Promise<Observable<SnapshotMessage>> {
	request.signal.throwIfAborted();
	const {run, guard} = guarded;
	const {qemuUid, nodes, ...prepared} = await prepareSnapshot(request, vm, run);
	const degraded = whyNotQuiesced === undefined ? [] : [`crash-consistent only: ${whyNotQuiesced}`];
	const task: SnapshotTask = {
		...prepared,
		plan: {...prepared.plan, warnings: [...degraded, ...prepared.plan.warnings]},
	};
	const {plan, planned} = task;
	const cutter = await chooseCutter();
	// Before it is at work nothing may be begun.
	await guard.ready();
	return concat(
		plan.warnings.map(text => ({kind: 'warning' as const, text})),
		of<SnapshotMessage>({
			kind: 'planned',
			vm: vm.name,
			snapshot: plan.name,
			disks: planned.records.map(({name, sizeBytes, base, overlay}) => ({
				...{name, sizeBytes, base: base.file, overlay: overlay?.file ?? null},
			})),
			skipped: plan.skipped,
			quiesce: quiescer !== undefined,
		}),
		request.dryRun === true ? EMPTY : takeSnapshot(task, cutter).pipe(concatMap(insist)),
	);

	async function chooseCutter(): Promise<SnapshotCutter> {
		const {memory} = request;
		if (memory === undefined || vm.power === 'off') return frozenCutter(request, vm, quiescer, plan, nodes);
		if (plan.kind === 'internal') {
			const {name: snapshot, disks} = plan;
			const vmstate = await prepareMemoryInside(vm, {disks, nodes});
			return insideCutter({vm, run: run.id, snapshot, disks, nodes, vmstate});
		}
		return memoryCutter({
			request: {...request, sockets: vm.sockets, memory},
			vm,
			guarded,
			qemuUid,
			mark: await prepareMemory(vm, memory),
		});
	}

	/** The cut cannot be taken back; under `require` it is a failure all the same. */
	function insist(message: SnapshotMessage): Observable<SnapshotMessage> {
		if (message.kind !== 'finished' || request.quiesce !== 'require') return of(message);
		const {name, consistency, warnings} = message.manifest;
		if (consistency === 'quiesced') return of(message);
		throw new AgentError(`the snapshot ${name} is crash-consistent only: ${warnings.join('; ')}`, {
			hint: `It is there, as the cut cannot be taken back: quiesce snapshot delete ${vm.name} ${name} removes it.`,
		});
	}
}

/** What has to be known of a VM before any snapshot; `nodes` are those of its disks. Changes nothing. */
async function prepareSnapshot(
	request: AnySnapshotRequest,
	vm: Session,
	run: SnapshotTask['run'],
): Promise<SnapshotTask & {readonly qemuUid: number | undefined; readonly nodes: readonly string[]}> {
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
	const {kind = 'external'} = request;
	const planSort = kind === 'internal' ? planInternalSnapshot : planSnapshot;
	const planned = await planSort({vm, run: run.id, graph, qemu, selected}, request);
	const plan: SnapshotPlan = {
		name: planned.name,
		vm: vm.name,
		uuid: vm.uuid ?? null,
		run: run.id,
		kind,
		qemu: {version: vm.version, package: vm.qmp.version.package, process: await identify(qemu)},
		tool: {version: programVersion()},
		disks: planned.records,
		skipped: selected.skipped,
		group: null,
		warnings: planned.warnings,
	};
	const nodes = selected.disks.map(({medium}) => medium.node);
	return {request, vm, run, planned, plan, machine, qemuFolder: qemu?.cwd, qemuUid, nodes};
}

function frozenCutter(
	request: AnySnapshotRequest,
	{qmp, power}: Session,
	quiescer: Quiescer | undefined,
	{name, kind}: SnapshotPlan,
	nodes: readonly string[],
): SnapshotCutter {
	return {
		wants: 'disks',
		cut: async disks => {
			const record = await cutFrozen({...request, power, called: name}, quiescer, async () => {
				const actions = kind === 'internal' ? internalSnapshotActions(nodes, name) : overlayActions(disks);
				const ms = await timed(() => qmp.execute('transaction', {actions}));
				return {standstill: power === 'on' ? {of: 'disks', seconds: ms / 1000} : null};
			});
			// In a group it can be taken back.
			if (request.member && request.quiesce === 'require' && record.degraded !== undefined) {
				throw new AgentError(record.degraded);
			}
			return record;
		},
	};
}
