import {once} from 'node:events';
import {readFile, stat, writeFile} from 'node:fs/promises';
import net from 'node:net';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {afterAll, beforeAll, beforeEach, expect, onTestFinished, test} from 'vitest';
import {GuestAgent} from '../../src/guest-agent/agent.ts';
import {AgentError} from '../../src/guest-agent/errors.ts';
import {agentLockKey, clearMarker, markFrozen, readMarker} from '../../src/guest-agent/frozen-marker.ts';
import {askHolder, isLocked, LockedError, takeLock} from '../../src/host/lock.ts';
import {runtimeFolder} from '../../src/host/runtime-folder.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {
	blockedWrite,
	expectNothingLeft,
	expectThawed,
	hookCalls,
	hookHasBegun,
	isRunning,
	logHooks,
	markers,
	openGuarded,
	ownRuntimeFolder,
	until,
} from './frozen-guest.ts';
import {type FrozenOrder, type FrozenTool, startTool} from './frozen-tool.ts';

/** What is promised. */
const THAWED_WITHIN_MS = 2_000;

let guest: Guest;
let address: {readonly unix: string};
let removeRuntimeFolder: () => Promise<void>;

beforeAll(async () => {
	removeRuntimeFolder = await ownRuntimeFolder();
	guest = await startGuest({stamps: 'none'});
	address = {unix: guest.agentPath};
	await logHooks(guest);
});
afterAll(async () => {
	await guest.kill();
	await removeRuntimeFolder();
});
// What a failed test left behind is not the next one's.
beforeEach(async () => {
	await guest.read('echo ok >/run/hook');
	const agent = await GuestAgent.open(address);
	await agent.thaw();
	agent.close();
	await clearMarker(address);
	await guest.read('>/run/hook.log');
});

function tool(then: FrozenOrder['then'], order: Partial<FrozenOrder> = {}): Promise<FrozenTool> {
	return startTool({agent: address.unix, run: 'run1', freezeTimeoutMs: 10_000, holdMs: 60_000, then, ...order});
}

async function freezeByHand(): Promise<void> {
	const agent = await GuestAgent.open(address);
	await agent.freeze(10_000);
	agent.close();
}

const endings: [string, (tool: FrozenTool) => void][] = [
	['is killed', ({pid}) => process.kill(pid, 'SIGKILL')],
	['gets Ctrl-C with its process group', ({pid}) => process.kill(-pid, 'SIGINT')],
	['loses its terminal', ({pid}) => process.kill(-pid, 'SIGHUP')],
	[
		'is stopped with its whole unit',
		({pid, guard}) => {
			for (const process_ of [guard, pid]) process.kill(process_, 'SIGTERM');
		},
	],
];

test.each(endings)('a run that %s in the window is followed by a thaw within two seconds', async (_, end) => {
	const run = await tool('wait');
	await run.expect('frozen');
	const write = await blockedWrite(guest);
	const start = performance.now();
	end(run);
	expect((await write.through) - start).toBeLessThan(THAWED_WITHIN_MS);
	await expectNothingLeft(run.guard);
	expect(run.stderr()).toBe('quiesce: guard: the run ended before its work was done: thawed 2 file systems\n');
	await expectThawed(guest);
	expect((await hookCalls(guest)).map(({what}) => what)).toEqual(['freeze', 'freeze-end', 'thaw', 'thaw-end']);
});

test.each(['stop', 'spin'] as const)(
	'a run that hangs (%s) is ended at its deadline, and the guest thawed',
	async then => {
		const run = await tool(then, {freezeTimeoutMs: 1_000, holdMs: 1_500});
		await run.expect('frozen');
		const write = await blockedWrite(guest);
		expect(await run.exited).toBe('SIGKILL');
		const ended = performance.now();
		expect((await write.through) - ended).toBeLessThan(THAWED_WITHIN_MS);
		await expectNothingLeft(run.guard);
		expect(run.stderr()).toBe(
			'quiesce: guard: the run hung while it held the guest frozen, and was ended: thawed 2 file systems\n',
		);
	},
);

test('a run that is killed while the guest is still freezing is followed by a thaw', async () => {
	await guest.read('echo slow:3 >/run/hook');
	const run = await tool('wait');
	await hookHasBegun(guest, 'freeze');
	process.kill(run.pid, 'SIGKILL');
	await expectNothingLeft(run.guard);
	const calls = await hookCalls(guest);
	expect(calls.map(({what}) => what)).toEqual(['freeze', 'freeze-end', 'thaw', 'thaw-end']);
	expect(calls[2]!.seconds - calls[1]!.seconds).toBeLessThan(THAWED_WITHIN_MS / 1_000);
	await expectThawed(guest);
});

test('a guard finds its way to an agent that others crowd', async () => {
	const run = await tool('wait');
	await run.expect('frozen');
	const write = await blockedWrite(guest);
	const crowd: net.Socket[] = [];
	onTestFinished(() => {
		for (const socket of crowd) socket.destroy();
	});
	// Until QEMU's socket, which serves one, lets no more wait.
	const fill = async (): Promise<void> => {
		await until('the agent is crowded', async () => {
			const socket = net.connect(address.unix);
			crowd.push(socket);
			return once(socket, 'connect').then(
				() => false,
				() => true,
			);
		});
	};
	await fill();
	process.kill(run.pid, 'SIGKILL');
	await fill();
	// Long enough for a guard to take so many refusals for the end of the VM.
	await delay(3_500);
	await fill();
	expect(await isRunning(run.guard)).toBe(true);
	expect(await markers()).toHaveLength(1);
	expect(await write.isBlocked()).toBe(true);
	for (const socket of crowd) socket.destroy();
	await write.through;
	await expectNothingLeft(run.guard);
});

test('a run that leaves the thaw to its guard is not ended by it', async () => {
	const run = await tool('let-go', {holdMs: 500});
	await run.expect('frozen');
	await run.expect('alive');
	expect(await run.exited).toBeNull();
	await expectNothingLeft(run.guard);
	await expectThawed(guest);
});

test('a kept freeze outlives its run, is locked meanwhile, and ends at a word with the token', async () => {
	const run = await tool('keep');
	expect(await run.expect('kept')).toBe('2');
	expect(await run.exited).toBeNull();
	const write = await blockedWrite(guest);
	const {token} = (await readMarker(address))!;

	const key = await agentLockKey(address);
	const locked = await takeLock(key, 'the guest', {pid: process.pid, run: 'run2', doing: 'backup'}).catch(
		(error: unknown) => error,
	);
	expect(locked).toBeInstanceOf(LockedError);
	expect(locked).toMatchObject({
		message: `the guest is in use by freeze since noon (run run1, process ${run.guard})`,
		holder: {pid: run.guard, run: 'run1', doing: 'freeze since noon'},
	});

	expect(await askHolder(key, 'thaw 0000')).toBe('refused');
	expect(await askHolder(key, 'melt')).toBe('refused');
	expect(await write.isBlocked()).toBe(true);
	expect(await askHolder(key, `thaw ${token}`)).toBe('{"thawed":2}');
	await write.through;
	await expectNothingLeft(run.guard);
	expect(await isLocked(key)).toBe(false);
	expect(run.stderr()).toBe('');
});

test('the asker hears of a thaw whose hook takes longer than a lock is patient', async () => {
	const run = await tool('keep');
	await run.expect('kept');
	const {token} = (await readMarker(address))!;
	await guest.read('echo thaw-slow:6 >/run/hook');
	expect(await askHolder(await agentLockKey(address), `thaw ${token}`, 30_000)).toBe('{"thawed":2}');
	await expectNothingLeft(run.guard);
});

test('a kept freeze ends at its deadline, which the log of the guards tells, and the terminal is left alone', async () => {
	const run = await tool('keep', {holdMs: 1_500});
	await run.expect('kept');
	const write = await blockedWrite(guest);
	await write.through;
	await expectNothingLeft(run.guard);
	expect(run.stderr()).toBe('');
	const log = join(await runtimeFolder(), 'guard.log');
	expect(await readFile(log, 'utf8')).toContain('nobody thawed the guest within 1.5 s: thawed 2 file systems\n');
	expect((await stat(log)).mode & 0o777).toBe(0o600);
	expect(await isLocked(await agentLockKey(address))).toBe(false);
});

test('a freeze that cannot be kept, as another holds the lock, is thawed', async () => {
	const holder = {pid: process.pid, run: 'run2', doing: 'backup'};
	const lock = await takeLock(await agentLockKey(address), 'the guest', holder);
	onTestFinished(() => lock.release());
	const run = await tool('keep', {lock: 'none'});
	expect(await run.expect('failed')).toMatch(/^the guard failed \(keep: the guest is in use by backup/);
	await run.exited;
	await expectNothingLeft(run.guard);
	await expectThawed(guest);
});

test('where run and guard are both killed, the next run thaws the guest and says so', async () => {
	const run = await tool('wait');
	await run.expect('frozen');
	const write = await blockedWrite(guest);
	for (const pid of [run.guard, run.pid]) process.kill(pid, 'SIGKILL');
	await run.exited;
	expect(await write.isBlocked()).toBe(true);
	const marker = await readMarker(address);
	expect(marker).toMatchObject({run: 'run1', pid: run.pid});

	const quiescer = await openGuarded(address, {run: 'run2', freezeTimeoutMs: 10_000});
	expect(quiescer.recovered).toEqual([
		`thawed the guest (2 file systems), which run run1 left frozen at ${marker!.since}`,
	]);
	await write.through;
	const {window} = await quiescer.whileFrozen(() => blockedWrite(guest));
	expect(window).toMatchObject({frozen: 2, thawed: 2});
	quiescer.close();
	await expectNothingLeft(quiescer.guard.pid);
});

test('a guest that someone else has frozen is refused, and stays theirs', async () => {
	await freezeByHand();
	const write = await blockedWrite(guest);
	const refusal = await openGuarded(address, {run: 'run1', freezeTimeoutMs: 10_000}).catch((error: unknown) => error);
	expect(refusal).toBeInstanceOf(AgentError);
	expect(refusal).toMatchObject({
		message: 'the guest is already frozen, and not by us',
		hint: expect.stringContaining('quiesce thaw') as string,
	});
	expect(await write.isBlocked()).toBe(true);
});

test('a marker that cannot be read is not ours', async () => {
	await markFrozen(address, 'run1');
	const [name = ''] = await markers();
	await writeFile(join(process.env['QUIESCE_RUNTIME_DIR']!, name), '{"run":');
	expect(await readMarker(address)).toBeUndefined();
});

test('a guard that comes late does not thaw what another run froze since', async () => {
	const run = await tool('wait');
	await run.expect('frozen');
	process.kill(run.guard, 'SIGSTOP');
	process.kill(run.pid, 'SIGKILL');
	await run.exited;
	const next = await openGuarded(address, {run: 'run2', freezeTimeoutMs: 10_000});
	expect(next.recovered).toHaveLength(1);
	next.close();
	await markFrozen(address, 'run3');
	await freezeByHand();
	const write = await blockedWrite(guest);
	process.kill(run.guard, 'SIGCONT');
	await until('the guard leaves', async () => !(await isRunning(run.guard)));
	expect(run.stderr()).toMatch(/another run looks after it\n$/);
	expect(await write.isBlocked()).toBe(true);
	expect(await readMarker(address)).toMatchObject({run: 'run3'});
});
