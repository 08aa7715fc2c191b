import fs from 'node:fs/promises';
import path from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {runOf} from '../block/names.ts';
import {scratchFilesIn} from '../cut/scratch.ts';
import {asError, errnoOf} from '../errors.ts';
import {processServing} from '../host/processes.ts';
import {JobError} from '../jobs/errors.ts';
import {yank} from '../jobs/yank.ts';
import {endMigration} from '../migration/end-migration.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {imagesSocketIn, socketIn} from '../sink/nbd-socket.ts';
import {type ChainJournal, readJournal} from './chain-journal.ts';
import {commitOverlays} from './commit-overlays.ts';
import {removeOverlayFiles} from './overlay-files.ts';
import {clearPausing, readPausing} from './pause-marker.ts';
import {removeRecorded} from './revert-journal.ts';
import {isAlive, requireDead, runFolders} from './run.ts';
import {notedScratch} from './scratch-note.ts';
import {snapshotOfRun} from './snapshot-pointer.ts';
import {nodesOfRun, runsInside, unwindInside} from './unwind.ts';
import type {Session} from './vm-session.ts';

const KILL_WAIT_MS = 3_000;
/** SS_CONNECTED in the kernel's table of Unix sockets. */
const CONNECTED = '03';

/**
 * Undoes what dead runs left in a VM and on this host: jobs, nodes, storage daemons, scratch, folders. Returns what it
 * did, in words. The caller holds the VM's lock, so a run that is alive in there is one that came by another name: it is
 * left alone, with a `LockedError`.
 */
export async function removeLeftovers(vm: Session, scratch?: string): Promise<string[]> {
	const {qmp, power} = vm;
	const done: string[] = [];
	const inside = await runsInside(qmp);
	for (const run of inside) {
		await requireDead(run, 'the VM');
		done.push(...(await unwindDead(vm, run)));
	}
	for (const folder of await scratchFolders(qmp, scratch)) done.push(...(await removeScratchFiles(folder)));
	if (vm.power === 'on') done.push(...(await removeOverlayFiles(vm)));
	done.push(...(await removeRunFolders(inside)));
	if (power === 'on' && done.length > 0 && (await qmp.execute('query-status')).status === 'io-error') {
		done.push(
			'found the VM paused by an I/O error, which the lost run may have caused: `cont` on its monitor resumes it',
		);
	}
	return done;
}

/** Resumes a VM that a dead run of ours paused: known by the run's mark, and by what it has inside. */
export async function resumeIfLeft(qmp: QmpConnection): Promise<string[]> {
	const done: string[] = [];
	let inside: ReadonlySet<string> | undefined;
	for (const {run, folder} of await runFolders()) {
		const mark = await readPausing(folder);
		if (!mark || (await isAlive(run))) continue;
		inside ??= await runsInside(qmp);
		if (!inside.has(run)) continue;
		if (mark.migration) {
			const ended = await endMigration(qmp, mark.migration, {whose: 'unknown'});
			done.push(...ended.map(words => `${words}, for run ${run}`));
			// Once: the VM may be paused or migrated by others from now on.
			await clearPausing(folder);
		} else if (await mayGoOn(qmp, run)) {
			await qmp.execute('cont');
			done.push(`resumed the VM, which run ${run} left paused`);
		}
	}
	return done;
}

/** A VM that was brought back to an internal snapshot, unless that failed: its memory may be in pieces then. */
async function mayGoOn(qmp: QmpConnection, run: string): Promise<boolean> {
	const {status} = await qmp.execute('query-status');
	if (status !== 'restore-vm') return status === 'paused';
	const load = (await qmp.execute('query-jobs')).find(({id, type}) => type === 'snapshot-load' && runOf(id) === run);
	return load?.status === 'concluded' && load.error === undefined;
}

/**
 * Of dead runs; `inside` are those that had something in a VM, which is removed by now. Ends their daemons. Of a run in
 * another VM the folder stays as long as that VM may need it.
 */
export async function removeRunFolders(
	inside: ReadonlySet<string> = new Set(),
	{pausing = 'keep'}: {pausing?: 'keep' | 'remove'} = {},
): Promise<string[]> {
	const done: string[] = [];
	for (const {run, folder} of await runFolders()) {
		if (await isAlive(run)) continue;
		if (await closeImages(folder)) done.push(`closed the images that run ${run} had open`);
		if (!inside.has(run)) {
			// Its jobs go on: they would fail the guest's writes, and the next run there ends them first.
			if (await hasClients(socketIn(folder))) continue;
			// From the mark alone the next run there can tell that a VM which it finds paused is to go on.
			if (pausing === 'keep' && (await readPausing(folder))) continue;
			// It says where the snapshot is that the run had begun.
			if ((await snapshotOfRun(folder)) !== undefined) continue;
			// Only there it shows whether the merge that the run was about has ended.
			const journal = await readJournal(folder);
			if (pausing === 'keep' && journal) continue;
			if (journal) done.push(...unsettled(run, journal));
		}
		if (await endDaemon(folder)) done.push(endedDaemon(run));
		done.push(...(await removeRecorded(folder)));
		for (const scratch of await notedScratch(folder)) done.push(...(await removeScratchFiles(scratch)));
		await fs.rm(folder, {recursive: true, force: true});
	}
	return done;
}

/** The VM has gone: nobody can tell what its disks lay on at the end. */
function unsettled(run: string, {merges}: ChainJournal): string[] {
	return merges.map(
		({disk, into, files}) =>
			`left the images of ${disk} as they are, which run ${run} was merging into ${into} when QEMU ended` +
			(files.length === 0 ? '' : `: ${files.map(({file}) => file).join(', ')}`),
	);
}

/** A job whose daemon hangs only ends when that has gone, or, where it cannot be killed, its connection. */
async function unwindDead(vm: Session, run: string): Promise<string[]> {
	const {qmp, schema} = vm;
	const told: string[] = [];
	// What the guest wrote last is in them alone.
	const disks = await commitOverlays(vm, run, text => told.push(text));
	if (disks.length > 0) {
		told.push(`committed the overlays of ${disks.join(', ')}, left by run ${run}: each disk lies on its image again`);
	}
	const unwind = async (): Promise<string[]> => {
		const removed = await unwindInside(qmp, schema, run);
		return [...told, ...(removed.length === 0 ? [] : [`removed ${removed.join(', ')}, left by run ${run}`])];
	};
	try {
		return await unwind();
	} catch (error) {
		if (!(error instanceof JobError)) throw error;
		await yank(qmp, await nodesOfRun(qmp, run));
		const found = (await runFolders()).find(candidate => candidate.run === run);
		const hadDaemon = found !== undefined && (await endDaemon(found.folder));
		return [...(hadDaemon ? [endedDaemon(run)] : []), ...(await unwind())];
	}
}

function endedDaemon(run: string): string {
	return `ended the storage daemon of run ${run}`;
}

/** Those of a VM that is off. The daemon closes them by itself when its run dies, which may take a moment, but not for ever. */
async function closeImages(folder: string): Promise<boolean> {
	const socket = imagesSocketIn(folder);
	if (!(await fs.stat(socket).catch(() => undefined))) return false;
	const daemon = await processServing(socket);
	if (daemon) {
		kill(daemon.pid, 'SIGTERM');
		if (!(await isGone(socket))) kill(daemon.pid, 'SIGKILL');
	}
	// It stops to listen before it has ended what it copies.
	for (let waited = 0; waited < KILL_WAIT_MS && (await hasClients(socketIn(folder))); waited += 50) await delay(50);
	return daemon !== undefined;
}

/** True if there was one to end. Whatever serves the run's socket is the run's. */
async function endDaemon(folder: string): Promise<boolean> {
	const daemon = await processServing(socketIn(folder));
	if (!daemon) return false;
	kill(daemon.pid, 'SIGKILL');
	await isGone(socketIn(folder));
	return true;
}

/** Waits for the end of what serves a socket, for a while. */
async function isGone(socket: string): Promise<boolean> {
	for (let waited = 0; waited < KILL_WAIT_MS; waited += 50) {
		if (!(await processServing(socket))) return true;
		await delay(50);
	}
	return false;
}

function kill(pid: number, signal: NodeJS.Signals): void {
	try {
		process.kill(pid, signal);
	} catch (error) {
		// It has just ended, or another recovery was faster.
		if (errnoOf(error) !== 'ESRCH') throw error;
	}
}

/** Whether a process is connected to a Unix socket that another serves. */
async function hasClients(socket: string): Promise<boolean> {
	const table = await fs.readFile('/proc/net/unix', 'utf8');
	return table.split('\n').some(line => {
		const [, , , , , state, , ...bound] = line.split(' ').filter(field => field !== '');
		return state === CONNECTED && bound.join(' ') === socket;
	});
}

/** Where scratch of this VM may have been: beside its images, and in a folder that was named. */
async function scratchFolders(qmp: QmpConnection, scratch: string | undefined): Promise<ReadonlySet<string>> {
	const files = (await qmp.execute('query-named-block-nodes', {flat: true})).map(({file}) => file);
	const folders = files.filter(file => path.isAbsolute(file)).map(file => path.dirname(file));
	return new Set(scratch === undefined ? folders : [...folders, path.resolve(scratch)]);
}

/**
 * Only what a run did not come to take the name from: it was killed in that moment. One that cannot be removed is told of,
 * and holds up no backup.
 */
export async function removeScratchFiles(folder: string): Promise<string[]> {
	const done: string[] = [];
	for (const {run, file} of await scratchFilesIn(folder)) {
		if (await isAlive(run)) continue;
		const words = await fs.rm(file, {force: true}).then(
			() => `removed the scratch file ${file} of run ${run}`,
			(error: unknown) => `could not remove the scratch file of run ${run}: ${asError(error).message}`,
		);
		done.push(words);
	}
	return done;
}
