import path from 'node:path';
import {concat, concatMap, defer, EMPTY, type Observable, of} from 'rxjs';
import {warnings as warningsOf} from '../../block/coverage.ts';
import type {Machine} from '../../repository/machine.ts';
import {scoped} from '../../rx/scoped.ts';
import {openArchiveSink} from '../../sink/archive.ts';
import type {CutRecord} from '../backup-messages.ts';
import {captureMachine} from '../capture-machine.ts';
import {checkScratch} from '../check-space.ts';
import {chooseMethod} from '../choose-method.ts';
import {copyDisks, withSink} from '../copy-disks.ts';
import type {CopyTask} from '../copy-task.ts';
import {ALONE} from '../group.ts';
import {wholeCopy} from '../plan-copies.ts';
import type {Quiescer} from '../quiescer.ts';
import {recoverVm} from '../recover.ts';
import {type DiskWithMedium, selectDisks} from '../select-disks.ts';
import {lookAgain, type Session} from '../vm-session.ts';
import {type GuardedRun, withGuard} from '../with-guard.ts';
import {withQuiescer} from '../with-quiescer.ts';
import {lostErrors, withAnyVm} from '../with-vm.ts';
import {indexFile} from './archive-output.ts';
import type {ExportMessage, ExportVmRequest} from './export-messages.ts';
import {type ArchiveContent, exportedDisks, type OpenArchive, openArchive} from './open-archive.ts';

interface ExportTask extends CopyTask {
	readonly request: ExportVmRequest;
	readonly content: ArchiveContent;
	readonly warnings: readonly string[];
}

/**
 * Writes what a VM's disks hold at one instant to an archive, while the guest goes on. Cold: each subscription writes one. Ends
 * with `finished`, after which a file is durable, or fails and leaves neither a file nor anything else of the run behind.
 */
export function exportVm(request: ExportVmRequest): Observable<ExportMessage> {
	const doing = `export since ${new Date().toISOString()}`;
	return withAnyVm(request, doing, (vm, run) => {
		const {qmp, agent} = vm.power === 'on' ? vm.sockets : {};
		return withGuard(request, run, {agent, vm: {qmp, name: vm.name}}, guarded =>
			concat(
				request.dryRun === true ? EMPTY : recoverVm(vm, request, undefined),
				// It may go on only now.
				defer(() => lookAgain(vm)).pipe(concatMap(now => quiesced(request, now, guarded))),
			),
		);
	});
}

function quiesced(request: ExportVmRequest, vm: Session, guarded: GuardedRun): Observable<ExportMessage> {
	return withQuiescer(request, vm, guarded, (quiescer, whyNot) => prepare(request, vm, guarded, quiescer, whyNot));
}

async function prepare(
	request: ExportVmRequest,
	vm: Session,
	{run, guard}: GuardedRun,
	quiescer: Quiescer | undefined,
	whyNotQuiesced: string | undefined,
): Promise<Observable<ExportMessage>> {
	request.signal.throwIfAborted();
	const graph = await vm.readGraph();
	const {disks, skipped} = selectDisks(graph, request);
	const {machine, qemu, qemuUid} = await captureMachine(vm, graph);
	const chosen = await chooseMethod(request, vm, disks, qemu);
	const warnings = [
		...(whyNotQuiesced === undefined ? [] : [`crash-consistent only: ${whyNotQuiesced}`]),
		...(chosen.because === undefined ? [] : [`method push, for which the guest can wait: ${chosen.because}`]),
		...disks.flatMap(disk => warningsOf(disk)),
		...(await checkScratch(chosen, disks)),
	];
	const content = contentOf(machine, disks);
	const task: ExportTask = {
		...{request, vm, run, guard, quiescer, qemuUid, chosen, member: ALONE, content, warnings},
		copies: disks.map(wholeCopy),
	};
	// Before it is at work nothing may be begun.
	await guard.ready();
	return concat(
		warnings.map(text => ({kind: 'warning' as const, text})),
		of<ExportMessage>({
			...{kind: 'planned', vm: vm.name, disks: exportedDisks(content), skipped},
			...{method: chosen.method, quiesce: quiescer !== undefined, compression: request.compression},
		}),
		request.dryRun === true ? EMPTY : writeArchive(task),
	);
}

function contentOf(machine: Machine, disks: readonly DiskWithMedium[]): ArchiveContent {
	return {
		machine,
		disks: disks.map(({name, deviceType, medium}) => ({
			...{name, sizeBytes: medium.virtualSize, deviceType: deviceType ?? null},
		})),
	};
}

/** The archive around the nodes in QEMU around the sink around the jobs: each is undone before the one around it. */
function writeArchive(task: ExportTask): Observable<ExportMessage> {
	const {request, content, vm, run, qemuUid} = task;
	return scoped({
		acquire: () => openArchive(content, request),
		release: (archive, outcome) => (outcome === 'completed' ? EMPTY : archive.output.abandon()),
		onLostError: lostErrors(request),
		use: archive =>
			withSink(
				task,
				() =>
					openArchiveSink({
						...{qmp: vm.qmp, run: run.id, folder: run.folder, writer: archive.writer, qemuUid},
						disks: archive.devices.map((device, index) => ({name: content.disks[index]?.name ?? '', device})),
					}),
				sink => copyDisks(task, sink, placeOf(request), record => finish(task, archive, record)),
			),
	});
}

function placeOf({target}: ExportVmRequest): {readonly called: string; readonly folder?: string} {
	return target.kind === 'file' ? {called: target.path, folder: path.dirname(target.path)} : {called: 'a stream'};
}

async function finish(
	{request: {target}, content, vm, warnings}: ExportTask,
	{writer, output}: OpenArchive,
	{at: cutAt, consistency, degraded}: CutRecord,
): Promise<readonly ExportMessage[]> {
	const {bytes: archiveBytes} = await writer.finish();
	await output.finish();
	const file = target.kind === 'file' ? target.path : null;
	return [
		{
			...{kind: 'finished', vm: vm.name, file, index: file && indexFile(file), archiveBytes, cutAt, consistency},
			disks: exportedDisks(content),
			warnings: degraded === undefined ? warnings : [...warnings, `crash-consistent only: ${degraded}`],
		},
	];
}
