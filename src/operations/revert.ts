import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs/promises';
import path from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ignoreElements, type Observable, tap, timer} from 'rxjs';
import {asError, QuiesceError} from '../errors.ts';
import {type HostLock, takeLock} from '../host/lock.ts';
import {usersOf} from '../host/image-users.ts';
import {loadMemory} from '../migration/load-memory.ts';
import {openMemory} from '../migration/memory-file.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {aborted} from '../rx/aborted.ts';
import {streamTask} from '../rx/task-stream.ts';
import {createOverlay, removeFile} from '../snapshots/overlay-file.ts';
import {otherUser, qemuOf} from './capture-machine.ts';
import {type OverlaysMade, recordOverlays} from './revert-journal.ts';
import type {RevertMessage, RevertRequest} from './revert-messages.ts';
import {planRevert, type RevertPlan} from './revert-plan.ts';
import {beginRun, type Run} from './run.ts';
import {openVm, type VmSession} from './vm-session.ts';

const AGAIN_MS = 100;
const PROGRESS_MS = 500;
const KILL_MS = 10_000;

/**
 * Brings a VM that does not run back to an external snapshot: on new overlays over the bases, which are not written to, and
 * with the memory if there is one. Cold. If it fails, the overlays and the QEMU that it has started are gone again.
 */
export function revert(request: RevertRequest): Observable<RevertMessage> {
	return streamTask(request.signal, async (emit, signal) => {
		const run = await beginRun(`revert to ${request.snapshot.name}`);
		try {
			const plan = await planRevert({...request, signal}, run.id);
			const {vm, uuid} = plan.snapshot.manifest;
			const doing = `revert since ${new Date().toISOString()}`;
			const lock: HostLock = await takeLock(`vm ${uuid ?? vm}`, `VM ${vm}`, {pid: process.pid, run: run.id, doing});
			try {
				await carryOut({...request, signal}, plan, run, emit);
			} finally {
				await lock.release();
			}
		} finally {
			await run.end();
		}
	});
}

async function carryOut(
	request: RevertRequest,
	plan: RevertPlan,
	run: Run,
	emit: (message: RevertMessage) => void,
): Promise<void> {
	const {snapshot, overlays, argv, notes} = plan;
	const {memory, vm} = snapshot.manifest;
	const disks = overlays.map(({disk, base, file}) => ({name: disk, base: base.file, overlay: file}));
	const made: OverlaysMade = [];
	let qemu: ChildProcess | undefined;
	try {
		for (const overlay of overlays) {
			await recordOverlays(run.folder, [...made, {file: overlay.file, inode: null}]);
			made.push({file: overlay.file, inode: await createOverlay(overlay)});
			await recordOverlays(run.folder, made);
		}
		request.signal.throwIfAborted();
		emit({kind: 'prepared', vm, disks, argv, notes, starts: request.start, memory: memory !== null});
		let status: string | null = null;
		if (request.start || memory) {
			const log = path.join(run.folder, 'qemu.log');
			if (request.start) qemu = await startQemu(argv, log);
			const session = await reachNewVm(request, plan, qemu, log);
			try {
				status = await bringToLife(request, plan, run, session, emit).catch(async (error: unknown) => {
					// Daemonized it is no child of ours.
					if (request.start) await session.qmp.execute('quit').catch(() => undefined);
					throw await withLog(error, log);
				});
			} finally {
				await session.qmp.close();
			}
		}
		qemu?.unref();
		emit({kind: 'finished', snapshot: snapshot.manifest, disks, status});
	} catch (error) {
		if (qemu) await end(qemu);
		for (const {file} of made) if ((await usersOf([file])).length === 0) await removeFile(file);
		throw error;
	}
}

/** It is to outlive us, and our terminal. */
async function startQemu([program = '', ...args]: readonly string[], log: string): Promise<ChildProcess> {
	const output = await fs.open(log, 'w', 0o600);
	try {
		const child = spawn(program, args, {detached: true, stdio: ['ignore', output.fd, output.fd]});
		await Promise.race([once(child, 'spawn'), once(child, 'error').then(([error]) => Promise.reject(asError(error)))]);
		return child;
	} catch (error) {
		throw new QuiesceError('FAILED', `cannot start ${program}: ${asError(error).message}`, {cause: error});
	} finally {
		await output.close();
	}
}

async function reachNewVm(
	{signal, waitMs, transcript}: RevertRequest,
	{monitor, snapshot}: RevertPlan,
	qemu: ChildProcess | undefined,
	log: string,
): Promise<VmSession> {
	if (!monitor) throw new Error('there is no monitor');
	const until = Date.now() + waitMs;
	for (;;) {
		signal.throwIfAborted();
		try {
			return await openVm({qmp: monitor, name: snapshot.manifest.vm}, {signal, transcript});
		} catch (error) {
			if (!(error instanceof UnreachableError)) throw error;
			// With -daemonize the first process ends well, and another one is QEMU.
			if (qemu && qemu.exitCode !== null && qemu.exitCode !== 0) {
				throw await withLog(new QuiesceError('FAILED', 'QEMU has ended as soon as it was started'), log);
			}
			if (Date.now() > until) throw error;
		}
		await delay(AGAIN_MS, undefined, {signal}).catch(() => undefined);
	}
}

async function bringToLife(
	{signal}: RevertRequest,
	{snapshot}: RevertPlan,
	run: Run,
	vm: VmSession,
	emit: (message: RevertMessage) => void,
): Promise<string> {
	const {memory} = snapshot.manifest;
	if (memory) {
		const where = {folder: run.folder, qemuUid: otherUser(await qemuOf(vm))};
		const sender = await openMemory(where, path.join(snapshot.folder, memory.file), memory);
		const progress$ = timer(PROGRESS_MS, PROGRESS_MS).pipe(
			tap(() => {
				emit({kind: 'progress', doneBytes: sender.sent(), totalBytes: memory.plainBytes});
			}),
			ignoreElements(),
		);
		try {
			await loadMemory({qmp: vm.qmp, schema: vm.schema, sender, watchers$: [aborted(signal), progress$]});
		} finally {
			await sender.close();
		}
		signal.throwIfAborted();
		if (memory.running) await vm.qmp.execute('cont');
	}
	return (await vm.qmp.execute('query-status')).status;
}

/** What QEMU said when it was started by us, with the error. */
async function withLog(error: unknown, log: string): Promise<unknown> {
	const said = (await fs.readFile(log, 'utf8').catch(() => '')).trim();
	if (said === '' || !(error instanceof QuiesceError)) return error;
	const words = said.split('\n').slice(-3).join(' · ');
	return new QuiesceError(error.code, `${error.message} (it said: ${words})`, {cause: error, hint: error.hint});
}

async function end(qemu: ChildProcess): Promise<void> {
	if (qemu.exitCode !== null || qemu.signalCode !== null) return;
	const ended = once(qemu, 'exit', {signal: AbortSignal.timeout(KILL_MS)});
	qemu.kill('SIGKILL');
	await ended;
}
