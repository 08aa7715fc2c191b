import {readdir} from 'node:fs/promises';
import {setTimeout as delay} from 'node:timers/promises';
import {onMonitor, difference, qemuState} from './qemu-state.ts';
import {pointFolders} from './points.ts';
import {ourProcesses} from './processes.ts';
import type {Stage} from './stage.ts';

/** The promise: no guest write takes longer than this because of us. */
const MAX_STALL_MS = 2_000;
/** What an emulated guest on two busy processors may lose besides. */
const SLACK_MS = 2_000;
const THAW_MS = 2_000;
/** A guard that has done its work, or a daemon that is killed, needs a moment to go. */
const GONE_MS = 3_000;

/** Collects what is wrong, and goes on. */
export class Findings {
	readonly wrong: string[] = [];

	async check(what: string, look: () => Promise<unknown>): Promise<void> {
		try {
			await look();
		} catch (error) {
			this.wrong.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
		}
	}
}

/** What was there before a trial, to be compared with what is there afterwards. */
export interface Before {
	readonly qemu: readonly string[];
	readonly errors: number;
	readonly consoleLength: number;
	readonly at: number;
	readonly isSameGuest: (stage: Stage) => boolean;
}

export async function lookBefore(stage: Stage): Promise<Before> {
	const {guest} = stage;
	return {
		qemu: await qemuState(guest),
		errors: (await guest.rawStats()).errors,
		consoleLength: await stage.consoleLength(),
		at: performance.now(),
		isSameGuest: later => later.guest === guest,
	};
}

/** That the VM runs, and that both its file systems take writes. */
export async function requireThawed(stage: Stage, withinMs = THAW_MS): Promise<void> {
	const begun = performance.now();
	const left = (): number => Math.max(1, withinMs + SLACK_MS - (performance.now() - begun));
	for (;;) {
		const {status} = (await onMonitor(stage.guest, execute => execute('query-status'))) as {status: string};
		if (status === 'running') break;
		if (left() === 1) throw new Error(`the VM is ${status}`);
		await delay(20);
	}
	await stage.guest.read('touch /mnt/a/thawed /mnt/b/thawed', left());
}

/** What the guest has borne: writes that failed, its longest write, and the longest pause of the VM. */
export interface Harm {
	readonly errors: number;
	readonly worstMs: number;
	readonly pausedMs: number;
}

export async function guestHarm(stage: Stage, before: Before): Promise<Harm> {
	const isSame = before.isSameGuest(stage);
	const {errors, count} = await stage.guest.rawStats();
	const deadline = performance.now() + MAX_STALL_MS + SLACK_MS;
	while ((await stage.guest.rawStats()).count === count) {
		if (performance.now() > deadline) throw new Error('the guest writes no more');
		await delay(5);
	}
	return {
		pausedMs: stage.longestPauseSince(before.at),
		errors: errors - (isSame ? before.errors : 0),
		worstMs: await stage.worstSince(isSame ? before.consoleLength : 0),
	};
}

export function requireUnharmed({errors, worstMs, pausedMs}: Harm, mayPause: boolean): void {
	if (errors > 0) throw new Error(`${errors} of the guest's writes failed`);
	if (worstMs > MAX_STALL_MS + SLACK_MS) throw new Error(`a write of the guest took ${Math.round(worstMs)} ms`);
	if (!mayPause && pausedMs > MAX_STALL_MS + SLACK_MS)
		throw new Error(`the VM was paused for ${Math.round(pausedMs)} ms`);
}

/** That nothing of any run is left, `but` that: in QEMU, among the processes, on the host, in the repositories. */
export async function requireNothingLeft(stage: Stage, before: Before, but?: RegExp): Promise<void> {
	const deadline = performance.now() + GONE_MS;
	for (;;) {
		const left = (await leftovers(stage, before)).filter(what => but?.test(what) !== true);
		if (left.length === 0) return;
		if (performance.now() > deadline) throw new Error(left.join('; '));
		await delay(50);
	}
}

async function leftovers(stage: Stage, before: Before): Promise<string[]> {
	const list = (folder: string): Promise<string[]> => readdir(folder).catch(() => []);
	const {guest} = stage;
	const hidden = [
		...(await pointFolders(stage.repository, guest.name, 'hidden')),
		...(await pointFolders(stage.target, guest.name, 'hidden')),
	];
	return [
		...difference(before.qemu, await qemuState(guest)),
		...(await ourProcesses(stage.runtimeDir)).map(({pid, commandLine}) => `process ${pid}: ${commandLine}`),
		// The log of lasting freezes is meant to stay.
		...(await list(stage.runtimeDir))
			.filter(name => name !== 'guard.log')
			.map(name => `in the runtime folder: ${name}`),
		...(await list(stage.scratch)).map(name => `scratch file: ${name}`),
		...hidden.map(folder => `unfinished point: ${folder}`),
	];
}
