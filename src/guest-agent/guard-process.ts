import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import {setTimeout as delay} from 'node:timers/promises';
import {parseAddress} from '../config/address.ts';
import {asError} from '../errors.ts';
import {type HostLock, LockedError, takeLock} from '../host/lock.ts';
import {runtimeFolder} from '../host/runtime-folder.ts';
import {UnreachableError} from '../qmp/errors.ts';
import {GuestAgent} from './agent.ts';
import {AgentError} from './errors.ts';
import {agentLockKey, clearMarker, readMarker} from './frozen-marker.ts';
import type {GuardOrder} from './guard.ts';

/** The guard's own program. It is told what to do on stdin, whose end means that the tool has died. */

const STDERR = 2;
const RETRY_MS = 200;
/** Refused so often in a row, a socket belongs to a VM that has ended: nothing is frozen any more. */
const GONE_AFTER = 5;
/** Short, as what is sent to a port that nobody has open is lost; then longer, as a loaded guest may be slow. */
const FIRST_SYNC_MS = 1_000;
const LAST_SYNC_MS = 16_000;

const address = parseAddress(process.argv[2] ?? '');
const tool = process.ppid;
let state: 'idle' | 'armed' | 'keeping' | 'thawing' = 'idle';
let deadline: NodeJS.Timeout | undefined;

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
	if (state === 'armed') void thawAndExit('the run ended before it had thawed the guest');
	else if (state === 'idle') process.exit(0);
});
answer('ok');

async function obey(order: GuardOrder): Promise<void> {
	if (state === 'thawing') throw new Error('the deadline has passed');
	switch (order.order) {
		case 'arm':
			clearTimeout(deadline);
			state = 'armed';
			deadline = setTimeout(onHungTool, order.deadlineMs);
			break;
		case 'disarm':
			clearTimeout(deadline);
			state = 'idle';
			break;
		case 'keep': {
			// Until the lock is ours the run answers for the guest, with the deadline it set.
			const lock = await takeOver(order);
			if (!isArmed()) {
				await lock.release();
				throw new Error('too late');
			}
			await leaveTerminal();
			clearTimeout(deadline);
			state = 'keeping';
			deadline = setTimeout(() => {
				void thawAndExit(`nobody thawed the guest within ${order.deadlineMs / 1000} s`, lock);
			}, order.deadlineMs);
		}
	}
}

/** Asked anew after waiting, as the tool may have died meanwhile. */
function isArmed(): boolean {
	return state === 'armed';
}

function onHungTool(): void {
	// While it lives the tool is our parent, so its number cannot have been given to another process.
	if (process.ppid === tool) process.kill(tool, 'SIGKILL');
	void thawAndExit('the run hung while it held the guest frozen, and was ended');
}

/** The tool lets go of the lock just before; another run may look at it in between. */
async function takeOver(order: Extract<GuardOrder, {order: 'keep'}>): Promise<HostLock> {
	const key = await agentLockKey(address);
	for (let attempt = 0; ; attempt++) {
		try {
			const lock: HostLock = await takeLock(key, 'the guest', order.holder, async line => {
				if (line !== `thaw ${order.token}` || state !== 'keeping') return 'refused';
				clearTimeout(deadline);
				state = 'thawing';
				const {thawed} = await thaw();
				setImmediate(() => void lock.release().then(() => process.exit(0)));
				return JSON.stringify({thawed});
			});
			return lock;
		} catch (error) {
			if (!(error instanceof LockedError) || attempt >= 10) throw error;
			await delay(RETRY_MS);
		}
	}
}

async function thawAndExit(why: string, lock?: HostLock): Promise<void> {
	if (state === 'thawing') return;
	state = 'thawing';
	clearTimeout(deadline);
	const {words} = await thaw();
	say(`${why}: ${words}`);
	await lock?.release();
	process.exit(0);
}

/** Tries until the guest is thawed, or is no longer ours to thaw. */
async function thaw(): Promise<{words: string; thawed?: number}> {
	let gone = 0;
	for (let syncMs = FIRST_SYNC_MS; ; syncMs = Math.min(2 * syncMs, LAST_SYNC_MS)) {
		let agent: GuestAgent | undefined;
		try {
			agent = await GuestAgent.open(address, {syncMs});
			// Only one client has the agent. The marker of another run says that it met our freeze, and froze anew.
			if (await isTakenOver()) return {words: 'another run looks after it'};
			const thawed = await agent.thaw();
			await forget();
			return {words: `thawed ${thawed} file systems`, thawed};
		} catch (error) {
			// A hook's error comes after the thaw; the marker stays for what could not be shown to be thawed.
			if (error instanceof AgentError && agent && (await isThawed(agent))) {
				await forget();
				return {words: `thawed, but ${error.message}`, thawed: 0};
			}
			gone = error instanceof UnreachableError && error.vmHasEnded ? gone + 1 : 0;
			if (gone >= GONE_AFTER) {
				await forget();
				return {words: 'the VM has ended since'};
			}
		} finally {
			agent?.close();
		}
		await delay(RETRY_MS);
	}
}

async function isTakenOver(): Promise<boolean> {
	const marker = await readMarker(address).catch(() => undefined);
	return marker !== undefined && marker.pid !== tool;
}

async function isThawed(agent: GuestAgent): Promise<boolean> {
	return (await agent.status().catch(() => 'frozen')) === 'thawed';
}

/** A marker that stays is seen by the next run; it is no reason to thaw again. */
async function forget(): Promise<void> {
	await clearMarker(address).catch(() => undefined);
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
		fs.writeSync(STDERR, `quiesce: thaw guard: ${what}\n`);
	} catch {
		// Nobody reads any more; what matters is done.
	}
}
