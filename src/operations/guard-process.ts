import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import {setTimeout as delay} from 'node:timers/promises';
import {asError} from '../errors.ts';
import {agentLockKey} from '../guest-agent/frozen-marker.ts';
import {thawUntilDone} from '../guest-agent/thaw-until-done.ts';
import {type HostLock, LockedError, takeLock} from '../host/lock.ts';
import {runtimeFolder} from '../host/runtime-folder.ts';
import type {Guarded, GuardOrder, GuardTask} from './guard.ts';

/** The guard's own program. It is told what to do on stdin, whose end without a word means that the tool has died. */

const STDERR = 2;
const LOCK_RETRY_MS = 200;
const DYING_MS = 10;
/** For a tool that the kernel cannot end, as its file system hangs. */
const DEATH_MS = 5_000;

const {agent, vm, tool} = JSON.parse(process.argv[2] ?? '') as GuardTask;
let freeze: 'none' | 'armed' | 'kept' = 'none';
let pauseIsWatched = false;
let toolIsKilled = false;
let state: 'watching' | 'ended' | 'rescuing' = 'watching';
const deadlines: {freeze?: NodeJS.Timeout; pause?: NodeJS.Timeout} = {};

// Whoever ends the tool by its process group or its unit must not end what cleans up after it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
process.stdout.on('error', () => undefined);

const orders = readline.createInterface({input: process.stdin});
orders.on('line', line => {
	obey(JSON.parse(line) as GuardOrder)
		.then(() => {
			answer('ok');
		})
		.catch((error: unknown) => {
			answer(asError(error).message);
		});
});
orders.once('close', () => {
	if (state === 'watching') void rescueAndExit('the run ended before its work was done');
	else if (state === 'ended' && freeze === 'none') process.exit(0);
	else if (state === 'ended' && freeze === 'armed') void thawAndExit('the run ended before it had thawed the guest');
});
answer('ok');

async function obey(order: GuardOrder): Promise<void> {
	if (state === 'rescuing') throw new Error('the deadline has passed');
	switch (order.order) {
		case 'arm':
			clearTimeout(deadlines.freeze);
			freeze = 'armed';
			deadlines.freeze = setTimeout(onHungTool, order.deadlineMs, 'it held the guest frozen');
			break;
		case 'disarm':
			clearTimeout(deadlines.freeze);
			freeze = 'none';
			break;
		case 'watch-pause':
			clearTimeout(deadlines.pause);
			pauseIsWatched = true;
			deadlines.pause = setTimeout(onHungTool, order.deadlineMs, 'it was about to pause the VM');
			break;
		case 'pause-over':
			clearTimeout(deadlines.pause);
			pauseIsWatched = false;
			break;
		case 'end':
			state = 'ended';
			break;
		case 'keep': {
			// Until the lock is ours the run answers for the guest, with the deadline it set.
			const lock = await takeOver(order);
			if (!isArmed()) {
				await lock.release();
				throw new Error('too late');
			}
			await leaveTerminal();
			clearTimeout(deadlines.freeze);
			freeze = 'kept';
			state = 'ended';
			deadlines.freeze = setTimeout(() => {
				void thawAndExit(`nobody thawed the guest within ${order.deadlineMs / 1000} s`, lock);
			}, order.deadlineMs);
		}
	}
}

/** Asked anew after waiting, as the tool may have died meanwhile. */
function isArmed(): boolean {
	return freeze === 'armed' && state !== 'rescuing';
}

function onHungTool(doing: string): void {
	// While it lives the tool is our parent, so its number cannot have been given to another process.
	if (process.ppid === tool) {
		process.kill(tool, 'SIGKILL');
		toolIsKilled = true;
	}
	void rescueAndExit(`the run hung while ${doing}, and was ended`);
}

/** The tool lets go of the lock just before; another run may look at it in between. */
async function takeOver(order: Extract<GuardOrder, {order: 'keep'}>): Promise<HostLock> {
	if (!agent) throw new Error('there is no agent');
	const key = await agentLockKey(agent);
	for (let attempt = 0; ; attempt++) {
		try {
			const lock: HostLock = await takeLock(key, 'the guest', order.holder, async line => {
				if (line !== `thaw ${order.token}` || freeze !== 'kept' || state === 'rescuing') return 'refused';
				clearTimeout(deadlines.freeze);
				state = 'rescuing';
				const {thawed} = await thawUntilDone(agent, tool);
				setImmediate(() => void lock.release().then(() => process.exit(0)));
				return JSON.stringify({thawed});
			});
			return lock;
		} catch (error) {
			if (!(error instanceof LockedError) || attempt >= 10) throw error;
			await delay(LOCK_RETRY_MS);
		}
	}
}

async function thawAndExit(why: string, lock?: HostLock): Promise<void> {
	if (state === 'rescuing') return;
	state = 'rescuing';
	clearTimeout(deadlines.freeze);
	await thaw(why);
	await lock?.release();
	process.exit(0);
}

/** At once what harms the guest: a paused one cannot thaw, and a monitor that others crowd is no reason to stay frozen. */
async function rescueAndExit(why: string): Promise<void> {
	if (state === 'rescuing') return;
	state = 'rescuing';
	clearTimeout(deadlines.freeze);
	clearTimeout(deadlines.pause);
	await Promise.all([freeze === 'armed' ? thaw(why) : undefined, vm ? undo(vm, why) : undefined]);
	process.exit(0);
}

async function undo(left: NonNullable<Guarded['vm']>, why: string): Promise<void> {
	const tell = (what: string): void => {
		say(`${why}: ${what}`);
	};
	// It takes a moment to die, and its locks, from which its death is known, go with it.
	// A guest must not wait for that; where there is none, there is time.
	const until = left.qmp === undefined ? Date.now() + DEATH_MS : 0;
	while (process.ppid === tool && (toolIsKilled || Date.now() < until)) await delay(DYING_MS);
	// Loaded only now: hardly any guard ever needs it.
	const {resumeAfterDeath, undoAfterDeath} = await import('./rescue.ts');
	if (pauseIsWatched && left.qmp) await resumeAfterDeath(left.qmp, tell);
	await undoAfterDeath(left, tell);
}

async function thaw(why: string): Promise<void> {
	if (!agent) return;
	const {words} = await thawUntilDone(agent, tool);
	say(`${why}: ${words}`);
}

/** Whoever waits for the tool's stderr to close, as ssh does, must not wait for us. */
async function leaveTerminal(): Promise<void> {
	const log = path.join(await runtimeFolder(), 'guard.log');
	fs.closeSync(STDERR);
	// The lowest free number is the one just closed.
	fs.openSync(log, 'a', 0o600);
}

function answer(line: string): void {
	process.stdout.write(`${line}\n`);
}

function say(what: string): void {
	try {
		fs.writeSync(STDERR, `quiesce: guard: ${what}\n`);
	} catch {
		// Nobody reads any more; what matters is done.
	}
}
