import * as fc from 'fast-check';
import {once} from 'node:events';
import {mkdtemp, rm, writeFile} from 'node:fs/promises';
import net from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {afterAll, beforeAll, describe, expect, onTestFinished, test} from 'vitest';
import {parseAddress} from '../../src/config/address.ts';
import {type AgentOptions, GuestAgent} from '../../src/guest-agent/agent.ts';
import {AgentCommandError, AgentError, AgentTimeoutError} from '../../src/guest-agent/errors.ts';
import {UnreachableError} from '../../src/qmp/errors.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {type AgentAnswer, type AgentScript, answering, FakeAgent, usual} from '../support/fake-agent.ts';
import {blockedWrite, expectThawed, hookHasBegun, logHooks} from './frozen-guest.ts';

async function opened(path: string, options?: AgentOptions): Promise<GuestAgent> {
	const agent = await GuestAgent.open({unix: path}, options);
	onTestFinished(() => {
		agent.close();
	});
	return agent;
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
	return work.then(
		value => {
			throw new Error(`succeeded with ${JSON.stringify(value)}`);
		},
		(error: unknown) => error,
	);
}

describe('with a real agent', () => {
	let guest: Guest;

	beforeAll(async () => {
		guest = await startGuest({stamps: 'none'});
		await logHooks(guest);
	});
	afterAll(() => guest.kill());

	test('it tells its version, and which commands it allows', async () => {
		const info = await (await opened(guest.agentPath)).info();
		expect(info.version).toMatch(/^\d+\.\d+/);
		expect(info.commands).toContain('guest-fsfreeze-freeze-list');
	});

	test('all file systems freeze, and thaw', async () => {
		const agent = await opened(guest.agentPath);
		expect(await agent.status()).toBe('thawed');
		expect(await agent.freeze(10_000)).toBe(2);
		expect(await agent.status()).toBe('frozen');
		const write = await blockedWrite(guest);
		expect(await agent.thaw()).toBe(2);
		await write.through;
		expect(await agent.status()).toBe('thawed');
	});

	test('named mount points freeze alone, and unknown ones are passed over', async () => {
		const agent = await opened(guest.agentPath);
		expect(await agent.freeze(10_000, ['/mnt/a', '/mnt/nowhere'])).toBe(1);
		await blockedWrite(guest, '/mnt/a');
		await guest.read('echo x >/mnt/b/probe');
		expect(await agent.thaw()).toBe(1);
		await expectThawed(guest);
	});

	test('a freeze of nothing that can freeze returns 0', async () => {
		const agent = await opened(guest.agentPath);
		expect(await agent.freeze(10_000, ['/proc'])).toBe(0);
		expect(await agent.status()).toBe('thawed');
		expect(await agent.thaw()).toBe(0);
	});

	test('a second freeze is refused, and the first one stays', async () => {
		const agent = await opened(guest.agentPath);
		await agent.freeze(10_000);
		const error = await failureOf(agent.freeze(10_000));
		expect(error).toBeInstanceOf(AgentCommandError);
		expect(error).toMatchObject({code: 'AGENT', command: 'guest-fsfreeze-freeze'});
		expect(await agent.status()).toBe('frozen');
		expect(await agent.thaw()).toBe(2);
	});

	test('half a command of an earlier client does not spoil the first one', async () => {
		for (const half of ['{"execute":', '{"execute":"guest-info","arguments":{"x":[', '{"execute":"gue', "{'", '[[[']) {
			const earlier = net.connect(guest.agentPath);
			await once(earlier, 'connect');
			await new Promise<void>(resolve => earlier.end(half, resolve));
			const agent = await opened(guest.agentPath);
			expect(await agent.status()).toBe('thawed');
			agent.close();
		}
	});

	test('replies that an earlier client did not read are not taken for ours', async () => {
		const earlier = net.connect(guest.agentPath);
		await once(earlier, 'connect');
		const commands = [
			'guest-info',
			'guest-get-time',
			'guest-fsfreeze-thaw',
			'guest-fsfreeze-status',
			'no-such-command',
		];
		const requests = Array.from({length: 20}, (_, index) => `{"execute":"${commands[index % commands.length]!}"}`);
		await new Promise(resolve => earlier.write(requests.join(''), resolve));
		// Resolves when the agent has begun to answer, so that there is something left over.
		await once(earlier, 'readable');
		earlier.destroy();
		const agent = await opened(guest.agentPath);
		expect(await agent.freeze(10_000)).toBe(2);
		expect(await agent.status()).toBe('frozen');
		expect(await agent.thaw()).toBe(2);
	});

	test('after a time-out the late reply is not taken for that of another command', async () => {
		const agent = await opened(guest.agentPath);
		await guest.read('echo slow:2 >/run/hook');
		onTestFinished(async () => {
			await guest.read('echo ok >/run/hook');
		});
		expect(await failureOf(agent.freeze(200))).toBeInstanceOf(AgentTimeoutError);
		expect(await agent.status()).toBe('frozen');
		await blockedWrite(guest);
		expect(await agent.thaw()).toBe(2);
		await expectThawed(guest);
	});

	test('a session that was given up while the agent was at work does not disturb the next one', async () => {
		const first = await opened(guest.agentPath);
		await guest.read('echo slow:1 >/run/hook; >/run/hook.log');
		const freezing = failureOf(first.freeze(10_000));
		await hookHasBegun(guest, 'freeze');
		first.close();
		expect(await freezing).toMatchObject({code: 'AGENT', message: 'the connection to the guest agent closed'});
		const second = await opened(guest.agentPath);
		await guest.read('echo ok >/run/hook');
		expect(await second.status()).toBe('frozen');
		expect(await second.thaw()).toBe(2);
	});

	test('commands given at once are done one after another', async () => {
		const agent = await opened(guest.agentPath);
		const [frozen, status, thawed, after] = await Promise.all([
			agent.freeze(10_000),
			agent.status(),
			agent.thaw(),
			agent.status(),
		]);
		expect([frozen, status, thawed, after]).toEqual([2, 'frozen', 2, 'thawed']);
	});

	test('an agent that hangs is given up in time, and with a hint', async () => {
		await guest.read('kill -STOP $(pidof qemu-ga)');
		onTestFinished(async () => {
			await guest.read('kill -CONT $(pidof qemu-ga)');
		});
		const start = performance.now();
		const error = await failureOf(opened(guest.agentPath, {syncMs: 500}));
		expect(performance.now() - start).toBeLessThan(1500);
		expect(error).toBeInstanceOf(AgentError);
		expect(error).toMatchObject({
			message: `no guest agent answers on unix:${guest.agentPath}`,
			hint: expect.stringContaining('systemctl status qemu-guest-agent') as string,
			cause: expect.any(AgentTimeoutError) as AgentTimeoutError,
		});
	});

	test('an agent that was held up works on, whatever was asked of it meanwhile', async () => {
		const agent = await opened(guest.agentPath);
		expect(await agent.status()).toBe('thawed');
	});

	test('a session ends by its signal while another client holds the socket', async () => {
		await opened(guest.agentPath);
		const cancel = new AbortController();
		const waiting = failureOf(opened(guest.agentPath, {signal: cancel.signal}));
		cancel.abort(new Error('enough'));
		expect(await waiting).toMatchObject({message: 'enough'});
	});
});

test('a guest without an agent is told within five seconds, with a hint', async () => {
	const guest = await startGuest({stamps: 'none', agent: 'none'});
	onTestFinished(() => guest.kill());
	const start = performance.now();
	const error = await failureOf(opened(guest.agentPath));
	expect(performance.now() - start).toBeLessThan(6_000);
	expect(error).toBeInstanceOf(AgentError);
	expect(error).toMatchObject({hint: expect.stringContaining('qemu-guest-agent is not running') as string});
});

test('what is no socket, or is not there, is unreachable and says so', async () => {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-no-agent-'));
	onTestFinished(() => rm(folder, {recursive: true}));
	const file = join(folder, 'file');
	await writeFile(file, '');
	const missing = await failureOf(opened(join(folder, 'missing')));
	expect(missing).toBeInstanceOf(UnreachableError);
	expect(missing).toMatchObject({message: `agent socket unix:${folder}/missing does not exist`});
	const plain = await failureOf(opened(file));
	expect(plain).toBeInstanceOf(UnreachableError);
	expect(plain).toMatchObject({message: `agent socket unix:${file} is not a socket`});
	const nobody = await failureOf(GuestAgent.open(parseAddress('tcp:127.0.0.1:1')));
	expect(nobody).toBeInstanceOf(UnreachableError);
});

describe('with a hostile guest', () => {
	/** Answers the first command with what no agent would say, and without an end. */
	function endless(start: string, chunk: string): {script: AgentScript; sentBytes: () => number} {
		let sent = 0;
		const script: AgentScript = (_, socket) => {
			const bytes = Buffer.from(chunk.repeat(Math.ceil(65_536 / chunk.length)));
			const more = (): void => {
				while (!socket.destroyed) {
					sent += bytes.length;
					if (!socket.write(bytes)) return;
				}
			};
			socket.on('drain', more);
			more();
			return start;
		};
		return {script, sentBytes: () => sent};
	}

	test('a reply without an end is cut off before it fills our memory', async () => {
		for (const [start, chunk] of [
			['{"return":"', 'a'],
			['{"return":[', '{},'],
			['{"return":', '['],
		] as const) {
			const {script, sentBytes} = endless(start, chunk);
			const fake = await FakeAgent.listen(script, 'script');
			const error = await failureOf(GuestAgent.open(fake.address));
			expect(error).toBeInstanceOf(AgentError);
			expect((error as AgentError).cause).toMatchObject({
				message: expect.stringMatching(/a message is (longer than 4194304 bytes|nested deeper)/) as string,
			});
			// What was in the sockets' buffers comes on top.
			expect(sentBytes()).toBeLessThan(16 << 20);
		}
	});

	test('noise without an end takes no memory, and no longer than the deadline', async () => {
		for (const chunk of ['x', '"\\', '{"return":1}', '{"error":{"desc":"no"}}\n']) {
			const fake = await FakeAgent.listen(endless('', chunk).script, 'script');
			const before = process.memoryUsage().rss;
			const start = performance.now();
			const error = await failureOf(GuestAgent.open(fake.address, {syncMs: 300}));
			expect(performance.now() - start).toBeLessThan(2_000);
			expect(error).toBeInstanceOf(AgentError);
			expect(process.memoryUsage().rss - before).toBeLessThan(128 << 20);
		}
	});

	test('a gigantic reply ends the session, and says why', async () => {
		const fake = await FakeAgent.listen(answering({...usual, 'guest-fsfreeze-freeze': {return: 'x'.repeat(5 << 20)}}));
		const agent = await opened(fake.address.unix);
		const error = await failureOf(agent.freeze(10_000));
		expect(error).toBeInstanceOf(AgentError);
		expect(error).toMatchObject({
			message: 'the connection to the guest agent closed: a message is longer than 4194304 bytes',
		});
		expect(agent.isClosed).toBe(true);
		expect(await failureOf(agent.thaw())).toBeInstanceOf(AgentError);
	});

	test('a reply of another type is not believed', async () => {
		const cases: [keyof typeof usual, (agent: GuestAgent) => Promise<unknown>, unknown[]][] = [
			['guest-fsfreeze-freeze', agent => agent.freeze(1_000), ['2', -1, 1.5, null, {}, [2], true, 1e300]],
			['guest-fsfreeze-thaw', agent => agent.thaw(), ['2', -1, {}]],
			['guest-fsfreeze-status', agent => agent.status(), ['melted', 1, null, ['frozen']]],
			[
				'guest-info',
				agent => agent.info(),
				[{}, 7, {version: 1, supported_commands: []}, {version: '\u001b[2J', supported_commands: []}],
			],
		];
		for (const [command, ask, values] of cases) {
			for (const value of values) {
				const fake = await FakeAgent.listen(answering({...usual, [command]: {return: value}}));
				const agent = await opened(fake.address.unix);
				const error = await failureOf(ask(agent));
				expect(error, JSON.stringify(value)).toBeInstanceOf(AgentError);
				expect(error).toMatchObject({message: `the guest agent answered ${command} with something else`});
			}
		}
	});

	test('replies that nobody asked for are dropped', async () => {
		const stray = '{"return":1}{"error":{"class":"GenericError","desc":"no"}}{"return":"frozen"}';
		const fake = await FakeAgent.listen(({execute, arguments: {id} = {}}) => {
			if (execute === 'guest-fsfreeze-status') return {return: 'thawed'};
			const reply = Buffer.from(`{"return":${id!}}\n${stray}`);
			return Buffer.concat([Buffer.from(stray), Buffer.of(0xff), reply]);
		}, 'script');
		const agent = await opened(fake.address.unix);
		expect(await agent.status()).toBe('thawed');
	});

	test('words of the guest cannot steer a terminal, nor fill it', async () => {
		const error = {class: 'GenericError', desc: `no\u001b]0;owned\u0007\n\u009b2J\u202e${'x'.repeat(1 << 20)}`};
		const fake = await FakeAgent.listen(answering({...usual, 'guest-fsfreeze-thaw': {error}}));
		const agent = await opened(fake.address.unix);
		const {message} = (await failureOf(agent.thaw())) as AgentCommandError;
		expect(message).toMatch(/^the guest agent refused guest-fsfreeze-thaw: no ]0;owned 2J x+…$/);
		expect(message.length).toBeLessThan(600);
	});

	test('a reply that never comes is waited for until the deadline, and the next command finds its own', async () => {
		let answer: AgentAnswer;
		const fake = await FakeAgent.listen(({execute}) =>
			execute === 'guest-fsfreeze-freeze' ? answer : {return: 'thawed'},
		);
		const agent = await opened(fake.address.unix);
		for (answer of [undefined, '', 'nonsense\n', '{"return":2,"error":"both"}', '{"return":2']) {
			expect(await failureOf(agent.freeze(50))).toBeInstanceOf(AgentTimeoutError);
			expect(await agent.status()).toBe('thawed');
		}
	});

	test('whatever an earlier client left, the session finds its own reply behind it', async () => {
		let left: Uint8Array = Buffer.alloc(0);
		const fake = await FakeAgent.listen(({arguments: {id} = {}}) => {
			return Buffer.concat([left, Buffer.of(0xff), Buffer.from(`{"return": ${id!}}\n`)]);
		}, 'script');
		const piece = fc.oneof(
			fc.uint8Array({maxLength: 64}),
			fc
				.constantFrom('{"return": {', '"', '\\', '}', '{"return": 3}\n', '{"error": {"desc": "x"}}', '[[')
				.map(text => Buffer.from(text)),
		);
		await fc.assert(
			fc.asyncProperty(fc.array(piece, {maxLength: 8}), async pieces => {
				left = Buffer.concat(pieces);
				(await GuestAgent.open(fake.address, {syncMs: 2_000})).close();
			}),
			{numRuns: 200},
		);
	});

	test('random bytes are no agent', async () => {
		let noise: Uint8Array = Buffer.alloc(0);
		const fake = await FakeAgent.listen(() => Buffer.from(noise), 'script');
		await fc.assert(
			fc.asyncProperty(fc.uint8Array({maxLength: 4096}), async bytes => {
				noise = bytes;
				expect(await failureOf(GuestAgent.open(fake.address, {syncMs: 15}))).toBeInstanceOf(AgentError);
			}),
			{numRuns: 100},
		);
	});
});
