import fs from 'node:fs/promises';
import path from 'node:path';
import {objectName} from '../block/names.ts';
import {overlayActions} from '../cut/external-snapshot.ts';
import {QuiesceError} from '../errors.ts';
import {endMigration, type MigrationMark} from '../migration/end-migration.ts';
import {receiveMemory} from '../migration/memory-file.ts';
import {requireMigratable} from '../migration/require-migratable.ts';
import {type MemoryMode, saveMemory} from '../migration/save-memory.ts';
import {putBack, readSettings} from '../migration/settings.ts';
import {aborted} from '../rx/aborted.ts';
import {MEMORY_FILE} from '../snapshots/layout.ts';
import {heard, HUNG_MS} from './heard-by-guard.ts';
import {clearPausing, markPausing} from './pause-marker.ts';
import {reachAgain} from './reach-again.ts';
import type {SnapshotRequest} from './snapshot-messages.ts';
import type {SnapshotCutter} from './take-snapshot.ts';
import type {VmSession} from './vm-session.ts';
import {watchSpace} from './watch-space.ts';
import type {GuardedRun} from './with-guard.ts';

/** How long the guest may go on, unless something else is asked for, while most of its memory is saved. */
const LIVE_MS = 120_000;

/** Throws `REFUSED`, with the reason, where the memory of the VM cannot be saved. Changes nothing. */
export async function prepareMemory(vm: VmSession, mode: MemoryMode): Promise<MigrationMark> {
	await requireMigratable(vm.qmp);
	const settings = await readSettings(vm.qmp);
	const canActivate = vm.schema.hasCommand('blockdev-set-active');
	if (!vm.running && !canActivate) {
		throw new QuiesceError('REFUSED', `QEMU ${vm.version} cannot save the memory of a paused VM and leave it paused`, {
			hint: 'Let it run first, or take the disks alone. QEMU 10.0 can.',
		});
	}
	if (mode === 'background' && !('background-snapshot' in settings.capabilities)) {
		throw new QuiesceError('REFUSED', `QEMU ${vm.version} cannot save memory in the background`);
	}
	return {settings, wasRunning: vm.running, hasSwitched: false, canActivate};
}

export interface MemoryCutterTask {
	readonly request: SnapshotRequest & {readonly memory: MemoryMode};
	readonly vm: VmSession;
	readonly guarded: GuardedRun;
	readonly qemuUid: number | undefined;
	readonly mark: MigrationMark;
}

/**
 * Cuts the disks at the instant of the memory. The guest is not frozen: it would be so in the memory, and whoever restored
 * that would have a frozen guest.
 */
export function memoryCutter(task: MemoryCutterTask): SnapshotCutter {
	const {request, vm, guarded, mark, qemuUid} = task;
	const {qmp} = vm;
	const {run, guard} = guarded;
	const {memory: mode} = request;
	return {
		wants: 'memory',
		cut: async (disks, partial, emit) => {
			const file = path.join(partial.folder, MEMORY_FILE);
			const receiver = await receiveMemory({folder: run.folder, qemuUid}, file);
			let at: string | undefined;
			try {
				return await whileMarked(
					task,
					async () => {
						const {pausedMs, ...stored} = await saveMemory({
							...{qmp, mode, mark, receiver, liveMs: request.liveMs ?? LIVE_MS},
							cut: async () => {
								at = new Date().toISOString();
								await qmp.execute('transaction', {actions: overlayActions(disks)});
							},
							onSwitching: () => markPausing(run.folder, {...mark, hasSwitched: true}),
							onProgress: progress => {
								emit({kind: 'progress', ...progress});
							},
							watchers$: [
								aborted(request.signal),
								watchSpace(partial.folder, 'Free some space, or name another place with --folder.'),
								heard(guard),
							],
						});
						return {
							at: at ?? new Date().toISOString(),
							consistency: 'crash-consistent',
							freeze: null,
							group: null,
							standstill: {of: 'vm', seconds: pausedMs / 1000},
							memory: {file: MEMORY_FILE, ...stored, mode, running: mark.wasRunning},
						};
					},
					() => receiver.close(),
				);
			} catch (error) {
				await receiver.close();
				// It may be what has filled the disk, on which the snapshot is yet to be noted.
				await fs.rm(file, {force: true});
				throw error;
			}
		},
	};
}

/**
 * While `work` saves the memory: our death is followed by the VM's going on, by the guard's doing or the next run's, which
 * know by what is in QEMU that the run was here.
 */
async function whileMarked<Value>(
	{vm, guarded: {run, guard}, mark}: MemoryCutterTask,
	work: () => Promise<Value>,
	stop: () => Promise<void>,
): Promise<Value> {
	const token = objectName(run.id, 'memory');
	await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': token, 'read-zeroes': true});
	await markPausing(run.folder, mark);
	await guard.watchPause(HUNG_MS);
	const settle = async (): Promise<void> => {
		await guard.pauseOver();
		await clearPausing(run.folder);
	};
	try {
		const value = await work();
		await putBack(vm.qmp, mark.settings);
		await settle();
		await vm.qmp.execute('blockdev-del', {'node-name': token});
		return value;
	} catch (error) {
		await stop();
		await reachAgain(vm, qmp => endMigration(qmp, {...mark, hasSwitched: true}, {whose: 'ours'}));
		await settle();
		await reachAgain(vm, qmp => qmp.execute('blockdev-del', {'node-name': token}));
		throw error;
	}
}
