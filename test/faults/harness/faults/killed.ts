import {readdir, stat} from 'node:fs/promises';
import {join} from 'node:path';
import {setImmediate} from 'node:timers/promises';
import type {Fault} from '../fault.ts';
import {pointFolders} from '../points.ts';
import {killAll, killWithGuards, ourProcesses} from '../processes.ts';
import {CRITICAL, CUT_IS_TAKEN, FREEZE_WINDOW, PAUSE} from '../steps.ts';

const killTool: Fault = {
	name: 'kill-tool',
	title: 'The program is killed (SIGKILL)',
	run: 'dies',
	guestBackAfter: 'strike',
	strike: ({tool}) => {
		tool.signal('SIGKILL');
		return Promise.resolve(undefined);
	},
	sample: CRITICAL,
};

const killWithGuard: Fault = {
	name: 'kill-with-guard',
	title: 'The program and its guard are killed at once',
	run: 'dies',
	guestBackAfter: 'recovery',
	strike: async ({stage, tool}) => {
		await killWithGuards(stage, tool);
		return undefined;
	},
	sample: [FREEZE_WINDOW[1]!, ...PAUSE, CUT_IS_TAKEN],
};

const killEverything: Fault = {
	name: 'kill-all',
	title: 'The program and all that it has started are killed at once, as with a control group',
	run: 'dies',
	guestBackAfter: 'recovery',
	strike: async ({stage}) => {
		await killAll(await ourProcesses(stage.runtimeDir));
		return undefined;
	},
	sample: [FREEZE_WINDOW[1]!, CUT_IS_TAKEN, /^host start qemu-img convert /],
};

const stopTool: Fault = {
	name: 'stop-tool',
	title: 'The program hangs (SIGSTOP), and is killed after 4 s',
	run: 'dies',
	guestBackAfter: 'heal',
	args: () => ['--freeze-timeout', '5s'],
	strike: async ({tool}) => {
		// The guard kills a run that holds the guest frozen; any other is killed here.
		const timer = setTimeout(() => {
			tool.signal('SIGKILL');
		}, STOPPED_MS);
		await tool.ended;
		clearTimeout(timer);
		return undefined;
	},
	sample: [FREEZE_WINDOW[1]!, CUT_IS_TAKEN],
};

const STOPPED_MS = 4_000;

const hangTool: Fault = {
	name: 'hang-tool',
	title: 'The program hangs (SIGSTOP) while it holds the guest frozen or paused, until its guard ends it',
	run: 'dies',
	guestBackAfter: 'heal',
	args: () => ['--freeze-timeout', '5s'],
	strike: async ({tool}) => {
		await tool.ended;
		return undefined;
	},
	at: /^(agent <- guest-fsfreeze-freeze|qmp .. (transaction|stop|qom-set|cont)) /,
	sample: [FREEZE_WINDOW[1]!],
};

const killRecovery: Fault = {
	...killWithGuard,
	name: 'kill-recovery',
	title: 'The program and its guard are killed, and then what recovers from that, with its guard',
	recoveryDies: true,
	sample: [CUT_IS_TAKEN],
};

/** A commit changes an image in place, and is none of our steps. */
const killCommit: Fault = {
	...killEverything,
	name: 'kill-commit',
	title: 'The program and its `qemu-img commit` are killed while that writes',
	strike: async trial => {
		const {scenario, stage} = trial;
		await untilWritten(await pointFolders(scenario.repository(stage), stage.guest.name, 'visible'));
		return killEverything.strike(trial);
	},
	at: /^host start qemu-img commit /,
	sample: [/^host start qemu-img commit #1$/, /^host start qemu-img commit #7$/],
};

/** Until an image in one of the folders changes, or nothing is to come any more. */
async function untilWritten(folders: readonly string[]): Promise<void> {
	const changes = async (): Promise<string> => {
		const times: number[] = [];
		for (const folder of folders) {
			for (const name of (await readdir(folder)).filter(file => file.endsWith('.qcow2'))) {
				times.push((await stat(join(folder, name))).mtimeMs);
			}
		}
		return times.join();
	};
	const [before, deadline] = [await changes(), performance.now() + WRITTEN_MS];
	while ((await changes()) === before && performance.now() < deadline) await setImmediate();
}

const WRITTEN_MS = 2_000;

export const KILLED: readonly Fault[] = [
	...[killTool, killWithGuard, killEverything, stopTool, hangTool, killRecovery],
	killCommit,
];
