import {concat, defer, mergeMap, type Observable, type Subscription} from 'rxjs';
import {isLasting} from '../block/names.ts';
import type {BlockNode} from '../block/nodes.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {concludeJob} from '../jobs/conclude-job.ts';
import type {QmpBlockNode} from '../qmp/schema.ts';
import {streamTask} from '../rx/task-stream.ts';
import {heard, HUNG_MS} from './heard-by-guard.ts';
import {insideJob} from './internal-snapshots.ts';
import {clearPausing, markPausing} from './pause-marker.ts';
import {recoverVm} from './recover.ts';
import {lookAgain, type VmSession} from './vm-session.ts';
import {type GuardedRun, withGuard} from './with-guard.ts';
import {type VmRequest, withVm} from './with-vm.ts';

export interface RevertInsideRequest extends VmRequest {
	/** Its tag in the images. */
	readonly snapshot: string;
	/** Remove the bitmaps of our backups, which QEMU does not take back. */
	readonly dropBitmaps: boolean;
	/** Bitmaps of other programs that may be removed too. */
	readonly dropNamed: readonly string[];
}

export type RevertInsideMessage =
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'warning'; readonly text: string}
	| {
			readonly kind: 'finished';
			readonly vm: string;
			readonly snapshot: string;
			readonly disks: readonly string[];
			readonly droppedBitmaps: readonly string[];
			/** QEMU's word for what the VM does; `off` if it does not run. */
			readonly status: string;
	  };

interface Found {
	readonly disks: readonly {readonly name: string; readonly node: BlockNode}[];
	readonly vmstate: string;
	readonly warnings: readonly string[];
}

/**
 * Brings a running VM back to a snapshot inside its images, with the memory that was saved there. It goes on if it ran. Cold.
 * If the load fails the VM stays stopped, as its memory may be in pieces.
 */
export function revertInside(request: RevertInsideRequest): Observable<RevertInsideMessage> {
	return withVm(request, `revert to ${request.snapshot}`, (vm, run) => {
		const {qmp} = request.sockets;
		return withGuard(request, run, {vm: {qmp, name: vm.name}}, guarded =>
			concat(
				recoverVm(vm, {}, undefined),
				defer(() => lookAgain(vm)).pipe(mergeMap(now => load(request, now, guarded))),
			),
		);
	});
}

function load(request: RevertInsideRequest, vm: VmSession, {run, guard}: GuardedRun): Observable<RevertInsideMessage> {
	const {qmp} = vm;
	const {snapshot: tag} = request;
	return streamTask<RevertInsideMessage>(request.signal, async (emit, signal) => {
		const {disks, vmstate, warnings} = await find(vm, tag);
		warnings.forEach(text => {
			emit({kind: 'warning', text});
		});
		const bitmaps = disks.flatMap(({node}) => node.bitmaps.map(({name}) => ({node: node.name, name})));
		requireDroppable(request, bitmaps);
		signal.throwIfAborted();
		await guard.ready();
		for (const bitmap of bitmaps) await qmp.execute('block-dirty-bitmap-remove', bitmap);
		const id = insideJob(run.id);
		let hearing: Subscription | undefined;
		if (vm.running) {
			await markPausing(run.folder);
			await guard.watchPause(HUNG_MS);
			// It takes as long as it takes. Without a guard it goes on all the same: it cannot be undone.
			hearing = heard(guard).subscribe({error: () => undefined});
		}
		try {
			await concludeJob(qmp, {id, label: `the snapshot ${tag} could not be loaded, and the VM is stopped`}, () =>
				qmp.execute('snapshot-load', {'job-id': id, tag, vmstate, 'devices': disks.map(({node}) => node.name)}),
			);
			if (vm.running) await qmp.execute('cont');
		} finally {
			hearing?.unsubscribe();
			await guard.pauseOver();
			await clearPausing(run.folder);
		}
		emit({
			...{kind: 'finished', vm: vm.name, snapshot: tag, disks: disks.map(({name}) => name)},
			droppedBitmaps: bitmaps.map(({name}) => name),
			status: (await qmp.execute('query-status')).status,
		});
	});
}

async function find(vm: VmSession, tag: string): Promise<Found> {
	const graph = await vm.readGraph();
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	const snapshotOf = (name: string): NonNullable<QmpBlockNode['image']['snapshots']>[number] | undefined =>
		nodes.find(node => node['node-name'] === name)?.image.snapshots?.find(snapshot => snapshot.name === tag);
	const writable = graph.disks.flatMap(({name, medium}) =>
		medium && !medium.readOnly ? [{name, node: medium.chain[0]}] : [],
	);
	const disks = writable.filter(({node}) => snapshotOf(node.name));
	if (disks.length === 0) {
		throw new UsageError(`no disk of ${vm.name} has a snapshot ${tag} inside`, {
			hint: 'An external snapshot is brought back while the VM does not run: stop it, and name the snapshot with --folder.',
		});
	}
	const [vmstate] = disks.filter(({node}) => (snapshotOf(node.name)?.['vm-state-size'] ?? 0) > 0);
	if (!vmstate) {
		throw new QuiesceError('REFUSED', `the snapshot ${tag} has no memory, so a running guest cannot go back to it`, {
			hint: 'Its memory would know nothing of what its disks are then. Stop the VM, and name its images with --image, or write --off.',
		});
	}
	const others = writable.filter(disk => !disks.includes(disk)).map(({name}) => name);
	return {
		disks,
		vmstate: vmstate.node.name,
		warnings: others.map(name => `${name} has no snapshot ${tag}, and stays as it is`),
	};
}

/** Throws `REFUSED` for what is not asked for by a switch, or by name. */
export function requireDroppable(
	{dropBitmaps, dropNamed}: Pick<RevertInsideRequest, 'dropBitmaps' | 'dropNamed'>,
	bitmaps: readonly {readonly name: string}[],
): void {
	const left = bitmaps.filter(({name}) => !(dropBitmaps && isLasting(name)) && !dropNamed.includes(name));
	if (left.length === 0) return;
	const names = [...new Set(left.map(({name}) => name))].join(', ');
	const others = left.some(({name}) => !isLasting(name));
	throw new QuiesceError('REFUSED', `QEMU goes back to no snapshot while its disks have bitmaps: ${names}`, {
		hint:
			'--drop-bitmaps removes those of our backups, the next of which is full then' +
			(others ? '; those of other programs only if --drop-bitmap names them.' : '.'),
	});
}
