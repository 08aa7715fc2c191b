import {setImmediate as immediate} from 'node:timers/promises';
import type {Fault} from '../fault.ts';
import {killAll, type OurProcess, ourProcesses} from '../processes.ts';
import type {Stage} from '../stage.ts';

const SEEN_MS = 10_000;

/** Where the command that reads is started. */
const reader = {
	run: 'lives',
	sample: [/^host start sh .*#1$/],
	at: /^host start sh /,
} as const satisfies Partial<Fault>;

const dies: Fault = {
	...reader,
	name: 'reader-dies',
	title: 'What reads the disks that are exposed is killed',
	guestBackAfter: 'strike',
	strike: async ({stage, goOn}) => {
		goOn();
		await killAll([await untilItReads(stage)]);
		return undefined;
	},
	expects: requireFailure(/no longer exposed; nothing is left in the VM/),
};

const stalls: Fault = {
	...reader,
	name: 'reader-stalls',
	title: 'What reads the disks that are exposed stalls for ever (SIGSTOP), until the deadline of 5 s',
	guestBackAfter: 'strike',
	args: () => ['--deadline', '5s'],
	strike: async ({stage, goOn}) => {
		goOn();
		const stalled = await untilItReads(stage);
		process.kill(stalled.pid, 'SIGSTOP');
		return () => killAll([stalled]);
	},
	expects: requireFailure(/sh ran longer than 5 s while the disks were exposed/),
};

async function untilItReads(stage: Stage): Promise<OurProcess> {
	const deadline = performance.now() + SEEN_MS;
	while (performance.now() < deadline) {
		const found = (await ourProcesses(stage.runtimeDir)).find(one => one.commandLine.startsWith('nbdcopy '));
		if (found) return found;
		await immediate();
	}
	throw new Error('nothing reads the disks');
}

function requireFailure(why: RegExp): NonNullable<Fault['expects']> {
	return (code, stderr) => {
		if (code === 0 || !why.test(stderr)) throw new Error(`the run ended with ${code}: ${stderr}`);
	};
}

export const READER: readonly Fault[] = [dies, stalls];
