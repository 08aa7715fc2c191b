import {setTimeout as delay} from 'node:timers/promises';
import {asError} from '../../src/errors.ts';
import type {GuestAgent} from '../../src/guest-agent/agent.ts';
import {freezeLastingly} from '../../src/guest-agent/freeze-window.ts';
import {agentLockKey, markFrozen} from '../../src/guest-agent/frozen-marker.ts';
import type {ThawGuard} from '../../src/guest-agent/freeze-window.ts';
import {takeLock} from '../../src/host/lock.ts';
import {openGuarded} from './frozen-guest.ts';
import type {FrozenOrder} from './frozen-tool.ts';

/** A run that freezes the guest, tells on stdout how far it is, and then does what no run should. */

const order = JSON.parse(process.argv[2] ?? '') as FrozenOrder;
const address = {unix: order.agent};
const quiescer = await openGuarded(address, order);
const {agent, guard} = quiescer;
say(`guard ${guard.pid ?? 0}`);

switch (order.then) {
	case 'wait':
	case 'stop':
	case 'spin':
		await quiescer.whileFrozen(() => inside(order.then));
		break;
	case 'keep':
		await keep(agent, guard);
		break;
	case 'let-go':
		await letGo(agent, guard);
}

function say(line: string): void {
	process.stdout.write(`${line}\n`);
}

async function inside(what: FrozenOrder['then']): Promise<void> {
	say('frozen');
	// Not before the line has left.
	await delay(500);
	if (what === 'stop') process.kill(process.pid, 'SIGSTOP');
	while (what === 'spin');
	await delay(60_000);
}

async function keep(agent: GuestAgent, guard: ThawGuard): Promise<void> {
	const lock = order.lock === 'none' ? undefined : await lockGuest();
	const handOver = {doing: 'freeze since noon', releaseLock: async () => lock?.release()};
	const options = {run: order.run, timeoutMs: order.freezeTimeoutMs, holdMs: order.holdMs};
	const said = await freezeLastingly(agent, guard, options, handOver).then(
		frozen => `kept ${frozen}`,
		(error: unknown) => `failed ${asError(error).message}`,
	);
	quiescer.close();
	say(said);
}

async function lockGuest() {
	return takeLock(await agentLockKey(address), 'the guest', {pid: process.pid, run: order.run, doing: 'freeze'});
}

/** The guard is to thaw, but cannot, as the agent is not free; this process lives on past the guard's deadline. */
async function letGo(agent: GuestAgent, guard: ThawGuard): Promise<void> {
	await guard.arm(order.holdMs);
	await markFrozen(address, order.run);
	await agent.freeze(order.freezeTimeoutMs);
	guard.end();
	say('frozen');
	await delay(3 * order.holdMs);
	agent.close();
	say('alive');
}
