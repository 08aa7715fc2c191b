import type {Fault} from '../fault.ts';
import type {Stage} from '../stage.ts';
import type {Tool} from '../tool.ts';
import {FREEZE_WINDOW} from '../steps.ts';

const AGENT = 'pidof qemu-ga';
const HUNG_MS = 8_000;
/** As the guest's init starts it. */
const START_AGENT =
	'(qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qemu-ga.pid -F/bin/hook ' +
	'</dev/null >/dev/null 2>&1 &)';

/** The run may wait for an agent that is silent, but not for ever. */
async function untilEnded(tool: Tool): Promise<void> {
	const {promise, resolve} = Promise.withResolvers<undefined>();
	const timer = setTimeout(resolve, HUNG_MS, undefined);
	await Promise.race([tool.ended, promise]);
	clearTimeout(timer);
}

async function resume({guest}: Stage): Promise<void> {
	await guest.read(`kill -CONT $(${AGENT})`);
}

const hung: Fault = {
	name: 'agent-hung',
	title: 'The guest agent hangs for 8 s',
	run: 'lives',
	guestBackAfter: 'heal',
	args: () => ['--freeze-timeout', '5s'],
	strike: async ({stage, tool, goOn}) => {
		await stage.guest.read(`kill -STOP $(${AGENT})`);
		goOn();
		await untilEnded(tool);
		await resume(stage);
		return undefined;
	},
	sample: [FREEZE_WINDOW[0]!],
};

const dead: Fault = {
	name: 'agent-dead',
	title: 'The guest agent is killed, and started again',
	run: 'lives',
	guestBackAfter: 'heal',
	args: () => ['--freeze-timeout', '5s'],
	strike: async ({stage, tool, goOn}) => {
		await stage.guest.read(`kill -9 $(${AGENT})`);
		goOn();
		await untilEnded(tool);
		await stage.guest.read(START_AGENT);
		return undefined;
	},
	sample: [FREEZE_WINDOW[1]!],
};

const babbling: Fault = {
	name: 'agent-garbage',
	title: 'The guest agent hangs for 8 s, and sends garbage',
	run: 'lives',
	guestBackAfter: 'heal',
	args: () => ['--freeze-timeout', '5s'],
	strike: async ({stage, tool, goOn}) => {
		await stage.guest.read(`kill -STOP $(${AGENT})`);
		await stage.native.fault('babble', String(stage.guest.pid), stage.guest.agentPath);
		goOn();
		await untilEnded(tool);
		await resume(stage);
		return undefined;
	},
	sample: [FREEZE_WINDOW[1]!],
};

export const AGENT_FAULTS: readonly Fault[] = [hung, dead, babbling];
