import {access, mkdtemp, readdir, readFile, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {expect} from 'vitest';
import type {SocketAddress} from '../../src/config/address.ts';
import {Guard} from '../../src/operations/guard.ts';
import {openQuiescer, type QuiesceOptions, type Quiescer} from '../../src/operations/quiescer.ts';
import type {Guest} from '../guest/guest.ts';

/** Sends what this process and its children keep in the runtime folder to one of its own. Returns its removal. */
export async function ownRuntimeFolder(): Promise<() => Promise<void>> {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-runtime-'));
	const before = process.env['QUIESCE_RUNTIME_DIR'];
	process.env['QUIESCE_RUNTIME_DIR'] = folder;
	return async () => {
		if (before === undefined) delete process.env['QUIESCE_RUNTIME_DIR'];
		else process.env['QUIESCE_RUNTIME_DIR'] = before;
		await rm(folder, {recursive: true});
	};
}

/** Asks again until the answer is yes. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
	const deadline = performance.now() + timeoutMs;
	while (!(await holds())) {
		if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
		await delay(20);
	}
}

/** Makes the guest log when its hooks begin and end, in seconds of its own clock. Done once a guest. */
export async function logHooks(guest: Guest): Promise<void> {
	await guest.read(`mv /bin/hook /bin/plain-hook
cat >/bin/hook <<'END'
#!/bin/sh
log() { echo "$* $(cut -d' ' -f1 /proc/uptime)" >>/run/hook.log; }
log "$1"
/bin/plain-hook "$@"
code=$?
log "$1-end"
exit $code
END
chmod 755 /bin/hook; >/run/hook.log`);
}

export interface HookCall {
	readonly what: string;
	/** Of the guest's clock. */
	readonly seconds: number;
}

/** What the hooks did since the last time this was asked for. */
export async function hookCalls(guest: Guest): Promise<HookCall[]> {
	const lines = (await guest.read('cat /run/hook.log; >/run/hook.log')).split('\n').filter(line => line !== '');
	return lines.map(line => {
		const [what = '', seconds] = line.split(' ');
		return {what, seconds: Number(seconds)};
	});
}

export async function hookHasBegun(guest: Guest, what: string): Promise<void> {
	await until(`the ${what} hook begins`, async () => (await guest.run(`grep -q '^${what} ' /run/hook.log`)).code === 0);
}

export interface BlockedWrite {
	/** `performance.now()` when the guest's write went through. */
	readonly through: Promise<number>;
	/** Whether the write waits for a thaw at this moment. */
	readonly isBlocked: () => Promise<boolean>;
}

/** Starts a write in the guest, and resolves when it hangs in a frozen file system. */
export async function blockedWrite(guest: Guest, mountpoint = '/mnt/a'): Promise<BlockedWrite> {
	const id = `blocked-${performance.now()}`;
	const writing = guest.read(`echo $$ >/run/${id}; echo x >${mountpoint}/probe`, 60_000);
	const through = writing.then(() => performance.now());
	// Whoever waits for it hears of a guest that is gone.
	through.catch(() => undefined);
	// The kernel's name of where a write waits for the end of a freeze.
	const isBlocked = async () =>
		(await guest.run(`pid=$(cat /run/${id}) && grep -q percpu_rwsem_wait /proc/$pid/stack`)).code === 0;
	await until(`a write to ${mountpoint} hangs`, isBlocked);
	return {through, isBlocked};
}

/** Fails unless a write to each file system goes through at once. */
export async function expectThawed(guest: Guest): Promise<void> {
	await guest.read('echo x >/mnt/a/probe; echo x >/mnt/b/probe', 5_000);
}

/** Whether the process is there and no zombie. */
export async function isRunning(pid: number): Promise<boolean> {
	const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
	return stat !== undefined && !stat.slice(stat.lastIndexOf(')')).startsWith(') Z');
}

export async function markers(): Promise<string[]> {
	const folder = process.env['QUIESCE_RUNTIME_DIR']!;
	await access(folder);
	return (await readdir(folder)).filter(name => name.startsWith('frozen-'));
}

/** Fails unless the guard ends, and nothing says that a guest is frozen. */
export async function expectNothingLeft(guard: number | undefined): Promise<void> {
	expect(guard).toBeDefined();
	await until(`the guard (process ${guard}) ends`, async () => !(await isRunning(guard!)));
	expect(await markers()).toEqual([]);
}

/** A quiescer with a guard of its own, which ends with it. */
export async function openGuarded(
	address: SocketAddress,
	options: Omit<QuiesceOptions, 'guard'>,
): Promise<Quiescer & {readonly guard: Guard}> {
	const guard = Guard.start({agent: address});
	try {
		const quiescer = await openQuiescer(address, {...options, guard});
		const close = (): void => {
			quiescer.close();
			guard.end();
		};
		return {...quiescer, guard, close};
	} catch (error) {
		guard.end();
		throw error;
	}
}
