import {stat, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test} from 'vitest';
import type {SocketAddress} from '../../src/config/address.ts';
import {GuestAgent} from '../../src/guest-agent/agent.ts';
import {AgentCommandError, AgentError, AgentTimeoutError} from '../../src/guest-agent/errors.ts';
import {whileFrozen} from '../../src/guest-agent/freeze-window.ts';
import {markFrozen, readMarker} from '../../src/guest-agent/frozen-marker.ts';
import {Guard} from '../../src/operations/guard.ts';
import type {QuiesceOptions, Quiescer} from '../../src/operations/quiescer.ts';
import {type Guest, type GuestOptions, startGuest} from '../guest/guest.ts';
import {answering, FakeAgent, usual} from '../support/fake-agent.ts';
import {lineTo} from './cut-line.ts';
import {
	blockedWrite,
	expectNothingLeft,
	expectThawed,
	hookCalls,
	hookHasBegun,
	logHooks,
	markers,
	openGuarded,
	ownRuntimeFolder,
} from './frozen-guest.ts';

let removeRuntimeFolder: () => Promise<void>;

beforeAll(async () => {
	removeRuntimeFolder = await ownRuntimeFolder();
});
afterAll(() => removeRuntimeFolder());

/** A quiescer that is closed when the test ends, and must then leave nothing. */
async function opened(
	address: SocketAddress,
	options: Partial<QuiesceOptions> = {},
): Promise<Quiescer & {guard: Guard}> {
	const quiescer = await openGuarded(address, {run: 'run1', freezeTimeoutMs: 10_000, ...options});
	onTestFinished(async () => {
		quiescer.close();
		await expectNothingLeft(quiescer.guard.pid);
	});
	return quiescer;
}

const neverDone = (): Promise<never> => Promise.reject(new Error('the work was done'));

async function failureOf(work: Promise<unknown>): Promise<unknown> {
	return work.then(
		() => undefined,
		(error: unknown) => error,
	);
}

describe('with a real guest', () => {
	let guest: Guest;
	let address: SocketAddress;

	beforeAll(async () => {
		guest = await startGuest();
		address = {unix: guest.agentPath};
		await logHooks(guest);
	});
	afterAll(() => guest.kill());
	beforeEach(async () => {
		await guest.read('echo ok >/run/hook; >/run/hook.log');
	});

	const hooksRun = async (): Promise<string[]> => (await hookCalls(guest)).map(({what}) => what);
	const allHooks = ['freeze', 'freeze-end', 'thaw', 'thaw-end'];

	test('work that takes too long fails, and the guest does not wait for it', async () => {
		const never = new Promise<never>(() => undefined);
		const quiescer = await opened(address, {holdMs: 300});
		await expect(quiescer.whileFrozen(() => never)).rejects.toThrow('the guest had been frozen for 0.3 s');
		await expectThawed(guest);
		expect(await hooksRun()).toEqual(allHooks);
	});

	test('the work is done while the guest cannot write, and the guest goes on after it', async () => {
		const quiescer = await opened(address);
		expect(quiescer.recovered).toEqual([]);
		const {value, window} = await quiescer.whileFrozen(async () => {
			const writes = [await blockedWrite(guest, '/mnt/a'), await blockedWrite(guest, '/mnt/b')];
			const {a, b} = await guest.stamps();
			expect(a).toBe(b);
			for (const write of writes) expect(await write.isBlocked()).toBe(true);
			return {writes, a};
		});
		for (const write of value.writes) await write.through;
		await expectThawed(guest);
		expect(window).toMatchObject({frozen: 2, thawed: 2});
		expect(window).not.toHaveProperty('doubt');
		expect(await hooksRun()).toEqual(allHooks);
		await expect.poll(async () => (await guest.stamps()).a).toBeGreaterThan(value.a);
	});

	test('the window is measured', async () => {
		await guest.read('echo slow:1 >/run/hook');
		const quiescer = await opened(address);
		const {window} = await quiescer.whileFrozen(() => delay(200));
		expect(window.freezeMs).toBeGreaterThan(1_000);
		expect(window.heldMs).toBeGreaterThanOrEqual(199);
		expect(window.heldMs).toBeLessThan(1_000);
		expect(window.thawMs).toBeGreaterThan(0);
		expect(window.thawMs).toBeLessThan(2_000);
	});

	test('a marker that only we can read is on disk inside the window, and gone after it', async () => {
		const quiescer = await opened(address);
		await quiescer.whileFrozen(async () => {
			expect(await markers()).toHaveLength(1);
			const [name = ''] = await markers();
			expect((await stat(join(process.env['QUIESCE_RUNTIME_DIR']!, name))).mode & 0o777).toBe(0o600);
			expect(await readMarker(address)).toMatchObject({run: 'run1', pid: process.pid});
		});
		expect(await markers()).toEqual([]);
	});

	test('a guard serves one window after another', async () => {
		const quiescer = await opened(address, {mountpoints: ['/mnt/b']});
		for (let round = 0; round < 3; round++) {
			const {window} = await quiescer.whileFrozen(() => blockedWrite(guest, '/mnt/b'));
			expect(window).toMatchObject({frozen: 1, thawed: 1});
		}
		expect(await hooksRun()).toHaveLength(12);
	});

	test('work that fails is followed by a thaw, and its error comes out as it is', async () => {
		const quiescer = await opened(address);
		const mishap = new Error('no space');
		const failure = await failureOf(
			quiescer.whileFrozen(async () => {
				await blockedWrite(guest);
				throw mishap;
			}),
		);
		expect(failure).toBe(mishap);
		await expectThawed(guest);
		expect(await hooksRun()).toEqual(allHooks);
	});

	test('a freeze hook that fails is named, the work is not done, and the thaw hook runs', async () => {
		await guest.read('echo fail >/run/hook');
		const quiescer = await opened(address);
		const failure = await failureOf(quiescer.whileFrozen(neverDone));
		expect(failure).toBeInstanceOf(AgentCommandError);
		expect(failure).toMatchObject({message: expect.stringMatching(/guest-fsfreeze-freeze: .*hook/) as string});
		await expectThawed(guest);
		expect(await hooksRun()).toEqual(allHooks);
	});

	test('a freeze of no file system is a failure, and the thaw hook runs', async () => {
		const quiescer = await opened(address, {mountpoints: ['/mnt/nowhere']});
		const failure = await failureOf(quiescer.whileFrozen(neverDone));
		expect(failure).toBeInstanceOf(AgentError);
		expect(failure).toMatchObject({message: 'the guest agent froze no file system'});
		expect(await hooksRun()).toEqual(allHooks);
	});

	test('a freeze that comes after its time-out is thawed', async () => {
		await guest.read('echo slow:2 >/run/hook');
		const quiescer = await opened(address, {freezeTimeoutMs: 300});
		const failure = await failureOf(quiescer.whileFrozen(neverDone));
		expect(failure).toBeInstanceOf(AgentTimeoutError);
		expect(failure).toMatchObject({message: expect.stringContaining('guest-fsfreeze-freeze within 0.3 s') as string});
		expect(await hooksRun()).toEqual(allHooks);
		await expectThawed(guest);
		expect(await quiescer.agent.status()).toBe('thawed');
	});

	test('a slow thaw hook does not make the guard end the run', async () => {
		await guest.read('echo thaw-slow:4 >/run/hook');
		const quiescer = await opened(address, {freezeTimeoutMs: 2_000, holdMs: 500});
		const {window} = await quiescer.whileFrozen(() => Promise.resolve());
		expect(window).toMatchObject({frozen: 2, thawed: 2});
		expect(window.thawMs).toBeGreaterThan(4_000);
	});

	test('a file system that thawed too early throws doubt on the window', async () => {
		const quiescer = await opened(address);
		const {window} = await quiescer.whileFrozen(() => guest.read('fsfreeze --unfreeze /mnt/b'));
		expect(window).toMatchObject({
			frozen: 2,
			thawed: 1,
			doubt: '2 file systems were frozen, but only 1 still were at the thaw',
		});
	});

	test('a thaw hook that fails throws doubt on the window, and the guest is thawed', async () => {
		await guest.read('echo thaw-fail >/run/hook');
		const quiescer = await opened(address);
		const {value, window} = await quiescer.whileFrozen(() => Promise.resolve('done'));
		expect(value).toBe('done');
		expect(window.doubt).toMatch(/guest-fsfreeze-thaw: .*hook/);
		await expectThawed(guest);
		expect((await hooksRun()).slice(0, 4)).toEqual(allHooks);
	});

	test('a connection that breaks in the window is made anew for the thaw', async () => {
		const line = await lineTo(guest.agentPath, join(guest.dir, 'line.sock'));
		const quiescer = await opened(line.address);
		const {window} = await quiescer.whileFrozen(async () => {
			const write = await blockedWrite(guest);
			line.cut();
			expect(await write.isBlocked()).toBe(true);
		});
		expect(window).toMatchObject({frozen: 2, thawed: 2});
		expect(window).not.toHaveProperty('doubt');
		await expectThawed(guest);
	});

	test('a guard that dies in the window does not spoil it', async () => {
		const quiescer = await opened(address);
		const {window} = await quiescer.whileFrozen(async () => {
			await blockedWrite(guest);
			process.kill(quiescer.guard.pid!, 'SIGKILL');
		});
		expect(window).toMatchObject({frozen: 2, thawed: 2});
		await expectThawed(guest);
	});

	test('without a living guard nothing is frozen', async () => {
		const quiescer = await opened(address);
		process.kill(quiescer.guard.pid!, 'SIGKILL');
		const failure = await failureOf(quiescer.whileFrozen(neverDone));
		expect(failure).toBeInstanceOf(AgentError);
		expect(failure).toMatchObject({message: expect.stringMatching(/^the guard failed/) as string});
		expect(await hooksRun()).toEqual([]);
	});

	test('without a place for its marker nothing is frozen', async () => {
		const quiescer = await opened(address);
		const folder = process.env['QUIESCE_RUNTIME_DIR']!;
		const file = join(folder, 'file');
		await writeFile(file, '');
		process.env['QUIESCE_RUNTIME_DIR'] = file;
		const failure = await failureOf(quiescer.whileFrozen(neverDone));
		process.env['QUIESCE_RUNTIME_DIR'] = folder;
		expect(failure).toMatchObject({code: 'FAILED', message: expect.stringContaining(file) as string});
		quiescer.close();
		await expectNothingLeft(quiescer.guard.pid);
		expect(await hooksRun()).toEqual([]);
	});

	test('the marker of a dead run is forgotten once its guest is found thawed', async () => {
		await markFrozen(address, 'dead');
		const quiescer = await opened(address);
		expect(quiescer.recovered).toEqual([]);
		expect(await markers()).toEqual([]);
	});
});

describe('when QEMU ends', () => {
	async function ownGuest(options: GuestOptions = {}): Promise<Guest> {
		const guest = await startGuest({stamps: 'none', ...options});
		onTestFinished(() => guest.kill());
		await logHooks(guest);
		return guest;
	}

	test('in the window, its failure comes out at once and nothing is left', async () => {
		const guest = await ownGuest();
		const quiescer = await opened({unix: guest.agentPath});
		const start = performance.now();
		const {window} = await quiescer.whileFrozen(() => guest.end());
		expect(window).toMatchObject({frozen: 2, thawed: 0, doubt: 'the VM has ended'});
		expect(performance.now() - start).toBeLessThan(3_000);
		expect(await markers()).toEqual([]);
	});

	test('during the freeze, the failure says so and nothing is left', async () => {
		const guest = await ownGuest({hook: 'slow:30'});
		const quiescer = await opened({unix: guest.agentPath}, {freezeTimeoutMs: 60_000});
		const freezing = failureOf(quiescer.whileFrozen(neverDone));
		await hookHasBegun(guest, 'freeze');
		const start = performance.now();
		await guest.end();
		expect(await freezing).toMatchObject({code: 'AGENT', message: 'the connection to the guest agent closed'});
		expect(performance.now() - start).toBeLessThan(3_000);
		expect(await markers()).toEqual([]);
	});
});

describe('with an agent of bad faith', () => {
	test('a guest that does not answer the thaw is handed to the guard, which goes on trying', async () => {
		let answers = true;
		let frozen = false;
		const fake = await FakeAgent.listen(({execute, arguments: {id} = {}}, socket) => {
			if (!answers) {
				socket.destroy();
				return undefined;
			}
			if (execute === 'guest-sync-delimited') {
				return Buffer.concat([Buffer.of(0xff), Buffer.from(`{"return":${id!}}\n`)]);
			}
			frozen = execute === 'guest-fsfreeze-freeze';
			return {return: 2};
		}, 'script');
		const agent = await GuestAgent.open(fake.address);
		const guard = Guard.start({agent: fake.address});
		const failure = await failureOf(
			whileFrozen(agent, guard, {run: 'run1', timeoutMs: 1_000}, () => {
				answers = false;
				return Promise.reject(new Error('mishap'));
			}),
		);
		expect(failure).toBeInstanceOf(AgentError);
		expect(failure).toMatchObject({
			message: expect.stringMatching(
				/^mishap; and then: the guest may still be frozen: no guest agent answers/,
			) as string,
			hint: expect.stringContaining(`(process ${guard.pid!}) goes on trying`) as string,
		});
		expect(await readMarker(fake.address)).toMatchObject({run: 'run1'});
		expect(frozen).toBe(true);
		answers = true;
		await expectNothingLeft(guard.pid);
		expect(frozen).toBe(false);
	});

	test('an agent that may not freeze is refused at the door', async () => {
		const info = {...usual['guest-info'].return, supported_commands: [{name: 'guest-fsfreeze-freeze', enabled: false}]};
		const fake = await FakeAgent.listen(answering({...usual, 'guest-info': {return: info}}));
		const failure = await failureOf(opened(fake.address));
		expect(failure).toBeInstanceOf(AgentError);
		expect(failure).toMatchObject({
			message: 'the guest agent does not allow guest-fsfreeze-freeze',
			hint: expect.stringContaining('block-rpcs') as string,
		});
		expect(fake.received).not.toContain('guest-fsfreeze-freeze');
	});

	test('nonsense in place of a count is a failed freeze, and is thawed', async () => {
		const fake = await FakeAgent.listen(answering({...usual, 'guest-fsfreeze-freeze': {return: 'two'}}));
		const quiescer = await opened(fake.address);
		expect(await failureOf(quiescer.whileFrozen(neverDone))).toBeInstanceOf(AgentError);
		expect(fake.received.slice(-2)).toEqual(['guest-fsfreeze-freeze', 'guest-fsfreeze-thaw']);
	});
});
