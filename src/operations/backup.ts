import {concat, concatMap, defer, EMPTY, mergeMap, type Observable, of} from 'rxjs';
import {warnings as warningsOf} from '../block/coverage.ts';
import {readBlockGraph} from '../block/read-graph.ts';
import {openOrCreateRepository, previewRepository, type Repository} from '../repository/repository.ts';
import type {BackupMessage, BackupPlan, BackupRequest} from './backup-messages.ts';
import {captureMachine} from './capture-machine.ts';
import {checkSpace} from './check-space.ts';
import type {Quiescer} from './quiescer.ts';
import {recoverLeftovers, removeDeadPartials} from './recover.ts';
import type {Run} from './run.ts';
import {selectDisks} from './select-disks.ts';
import {METHOD, takePoint} from './take-point.ts';
import type {VmSession} from './vm-session.ts';
import {withQuiescer} from './with-quiescer.ts';
import {withVm} from './with-vm.ts';

/**
 * Takes a full point of a running VM into a repository. Cold: each subscription takes one. Ends with `finished`, after
 * which the point is durable, or fails and leaves nothing of the run behind.
 */
export function backup(request: BackupRequest): Observable<BackupMessage> {
	return withVm(request, `backup since ${new Date().toISOString()}`, (vm, run) =>
		defer(() => (request.dryRun === true ? previewRepository : openOrCreateRepository)(request.repository)).pipe(
			concatMap(repository =>
				concat(
					request.dryRun === true ? EMPTY : recoverAll(vm, repository),
					withQuiescer(request, vm, run.id, (quiescer, whyNot) =>
						concat(
							(quiescer?.recovered ?? []).map(recovered),
							defer(() => prepare(request, vm, run, repository, quiescer, whyNot)).pipe(concatMap(point$ => point$)),
						),
					),
				),
			),
		),
	);
}

function recoverAll(vm: VmSession, repository: Repository): Observable<BackupMessage> {
	return concat(
		defer(() => recoverLeftovers(vm.qmp)),
		defer(() => removeDeadPartials(repository, vm.name)),
	).pipe(mergeMap(texts => texts.map(recovered)));
}

async function prepare(
	request: BackupRequest,
	vm: VmSession,
	run: Run,
	repository: Repository,
	quiescer: Quiescer | undefined,
	whyNotQuiesced: string | undefined,
): Promise<Observable<BackupMessage>> {
	request.signal.throwIfAborted();
	const graph = await readBlockGraph(vm.qmp, vm.schema);
	const {disks, skipped} = selectDisks(graph, request);
	const {machine, qemuUid} = await captureMachine(vm, request.sockets.qmp, graph);
	const space = await checkSpace(repository.path, request.compression, disks);
	const degraded = whyNotQuiesced === undefined ? [] : [`crash-consistent only: ${whyNotQuiesced}`];
	const warnings = [...degraded, ...disks.flatMap(disk => warningsOf(disk)), ...space];
	const plan: BackupPlan = {
		vm: vm.name,
		run: run.id,
		disks: disks.map(({name, medium}) => ({name, sizeBytes: medium.virtualSize, format: medium.format})),
		skipped,
		quiesce: quiescer !== undefined,
		method: METHOD,
		sink: request.sink,
		compression: request.compression,
	};
	return concat(
		warnings.map(text => ({kind: 'warning' as const, text})),
		of({kind: 'planned' as const, plan}),
		request.dryRun === true
			? EMPTY
			: takePoint({request, vm, run, repository, quiescer, disks, skipped, warnings, machine, qemuUid}),
	);
}

function recovered(text: string): BackupMessage {
	return {kind: 'recovered', text};
}
