import {performance} from 'node:perf_hooks';
import {defer, exhaustMap, filter, firstValueFrom, ignoreElements, mergeMap, NEVER, type Observable, timer} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpMigrationInfo} from '../qmp/schema.ts';
import {guardedBy} from '../rx/guarded-by.ts';
import {goOn, type MigrationMark} from './end-migration.ts';
import {failWhenStill} from './fail-when-still.ts';
import type {MemoryFile, MemoryReceiver} from './memory-file.ts';
import {setCapabilities, setLimits} from './settings.ts';
import {isOver, reach} from './status.ts';

/**
 * `live`: the guest goes on while most of its memory is saved, and is paused for the rest. `stop`: it is paused for all of
 * it. `background`: it is paused for a moment, and a write of its waits until what it overwrites is saved.
 */
export const MEMORY_MODES = ['live', 'stop', 'background'] as const;
export type MemoryMode = (typeof MEMORY_MODES)[number];

export interface SaveTask {
	readonly qmp: QmpConnection;
	readonly mode: MemoryMode;
	/** What was found, and what undoes it: known to others before this begins. */
	readonly mark: MigrationMark;
	readonly receiver: MemoryReceiver;
	/** With `live`: after so long the guest is paused, whatever is left. */
	readonly liveMs: number;
	/** Captures the disks. Called once, while no processor of the guest runs. */
	readonly cut: () => Promise<void>;
	/** Awaited before QEMU may finish: from then on a VM that it has left is to go on again by `cont`. */
	readonly onSwitching: () => Promise<void>;
	readonly onProgress: (progress: MemoryProgress) => void;
	/** What ends it by failing. */
	readonly watchers$: readonly Observable<never>[];
}

export interface MemoryProgress {
	/** Bytes, as QEMU counts them: what the guest writes adds to both. */
	readonly doneBytes: number;
	readonly totalBytes: number;
}

export interface SavedMemory extends MemoryFile {
	/** For how long the guest did not run; 0 if it did not run before. */
	readonly pausedMs: number;
}

/** Without a byte for so long, it has failed. A paused guest waits for nobody's disk for longer. */
const STILL_MS = {running: 300_000, paused: 30_000};
const PROGRESS_MS = 500;
const LOOK_MS = 5;
/** What is left when the guest is paused takes no longer, by QEMU's estimate. */
const DOWNTIME_MS = 500;

/**
 * Saves the state of RAM and devices, as of the instant at which `cut` captures the disks. The VM then goes on as before. If
 * this rejects, `endMigration` puts the VM right.
 */
export async function saveMemory(task: SaveTask): Promise<SavedMemory> {
	const {qmp, mode, mark, receiver} = task;
	const background = mode === 'background';
	await setCapabilities(qmp, {
		...('background-snapshot' in mark.settings.capabilities ? {'background-snapshot': background} : {}),
		'events': true,
		'pause-before-switchover': !background,
	});
	await setLimits(qmp, {maxBandwidth: 0, downtimeLimitMs: DOWNTIME_MS});
	const watched: SaveTask = {
		...task,
		watchers$: [...task.watchers$, defer(() => receiver.written).pipe(mergeMap(() => NEVER))],
	};
	const pausedMs = await (background ? saveBehind(watched) : saveAhead(watched));
	return {...(await receiver.written), pausedMs: mark.wasRunning ? pausedMs : 0};
}

async function saveAhead(task: SaveTask): Promise<number> {
	const {qmp, mode, mark, receiver, cut, onSwitching, liveMs, watchers$} = task;
	const pause = stopwatch(qmp);
	try {
		if (mode === 'stop' && mark.wasRunning) await qmp.execute('stop');
		await qmp.execute('migrate', {uri: receiver.uri});
		await reach(qmp, 'pre-switchover', [
			...watchers$,
			progress(task),
			failWhenStill(receiver.received, mode === 'stop' ? STILL_MS.paused : STILL_MS.running),
			...(mode === 'live' && mark.wasRunning ? [pauseAfter(qmp, liveMs)] : []),
		]);
		await cut();
		await onSwitching();
		await qmp.execute('migrate-continue', {state: 'pre-switchover'});
		await reach(qmp, 'completed', [...watchers$, failWhenStill(receiver.received, STILL_MS.paused)]);
		await goOn(qmp, {...mark, hasSwitched: true});
		return pause.ms();
	} finally {
		pause.end();
	}
}

/** With `background-snapshot`: QEMU saves the devices, and then lets the guest go on. */
async function saveBehind(task: SaveTask): Promise<number> {
	const {qmp, mark, receiver, cut, watchers$} = task;
	const pause = stopwatch(qmp);
	try {
		if (mark.wasRunning) await qmp.execute('stop');
		await cut();
		await qmp.execute('migrate', {uri: receiver.uri});
		const still$ = failWhenStill(receiver.received, STILL_MS.paused);
		// `active` comes too early: the devices are saved only after it. Pages come after them.
		const begun$ = timer(0, LOOK_MS).pipe(
			exhaustMap(() => qmp.execute('query-migrate')),
			filter(info => isOver(info) || (info.status === 'active' && hasPages(info))),
			guardedBy(...watchers$, still$),
		);
		// QEMU 7.2 has let it go on by itself by now.
		await firstValueFrom(begun$, {defaultValue: undefined});
		await goOn(qmp, mark);
		const pausedMs = pause.ms();
		await reach(qmp, 'completed', [...watchers$, progress(task), still$]);
		return pausedMs;
	} finally {
		pause.end();
	}
}

function hasPages({ram}: QmpMigrationInfo): boolean {
	return ram !== undefined && ram.normal + ram.duplicate > 0;
}

/** Never emits or completes. */
function pauseAfter(qmp: QmpConnection, ms: number): Observable<never> {
	return timer(ms).pipe(
		mergeMap(() => qmp.execute('stop')),
		mergeMap(() => NEVER),
	);
}

function progress({qmp, onProgress}: SaveTask): Observable<never> {
	return timer(PROGRESS_MS, PROGRESS_MS).pipe(
		exhaustMap(async () => {
			const {ram} = await qmp.execute('query-migrate');
			if (ram) onProgress({doneBytes: ram.transferred, totalBytes: ram.transferred + ram.remaining});
		}),
		ignoreElements(),
	);
}

/** From the first pause on. */
function stopwatch(qmp: QmpConnection): {ms(): number; end(): void} {
	let since: number | undefined;
	const seen = qmp.on('STOP').subscribe({
		next: () => (since ??= performance.now()),
		error: () => undefined,
	});
	return {
		ms: () => (since === undefined ? 0 : performance.now() - since),
		end: () => {
			seen.unsubscribe();
		},
	};
}
