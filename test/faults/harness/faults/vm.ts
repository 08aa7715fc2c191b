import type {Fault} from '../fault.ts';
import {killAll, ourProcesses} from '../processes.ts';
import {pointFolders} from '../points.ts';
import {onMonitor} from '../qemu-state.ts';
import {COPYING, CUT_IS_TAKEN, FREEZE_WINDOW, PAUSE, type Place} from '../steps.ts';
import {readdir, rm, stat, truncate} from 'node:fs/promises';
import {join} from 'node:path';
import {outcomeOf, type Stage, type VmKind} from '../stage.ts';
import {KILLED} from './killed.ts';

const killQemu: Fault = {
	name: 'kill-qemu',
	title: 'QEMU is killed',
	run: 'lives',
	guestBackAfter: 'heal',
	strike: async ({stage}) => {
		await stage.guest.end();
		return () => stage.restart();
	},
	sample: [FREEZE_WINDOW[1]!, COPYING],
};

const quitQemu: Fault = {
	...killQemu,
	name: 'quit-qemu',
	title: 'QEMU ends in good order (SIGTERM), and is started again',
	strike: async ({stage}) => {
		await stage.guest.end('SIGTERM');
		return () => stage.restart();
	},
	sample: [COPYING, CUT_IS_TAKEN],
};

const cutMonitor: Fault = {
	name: 'cut-monitor',
	title: "The monitor's connection is cut",
	run: 'lives',
	guestBackAfter: 'heal',
	strike: async ({stage, tool}) => {
		await stage.native.fault('cut', String(tool.pid), stage.guest.qmpPath);
		return undefined;
	},
	sample: [/^qmp -> blockdev-reopen /, CUT_IS_TAKEN, /^qmp -> job-finalize /],
};

const powerCut: Fault = {
	name: 'power-cut',
	title: 'Power cut: QEMU and all of ours end, unfinished files lose their last quarter, the runtime folder is gone',
	run: 'dies',
	guestBackAfter: 'recovery',
	strike: async ({stage}) => {
		await Promise.all([stage.guest.end(), ourProcesses(stage.runtimeDir).then(killAll)]);
		for (const folder of await pointFolders(stage.target, stage.guest.name, 'hidden')) await dropTails(folder);
		await rm(stage.runtimeDir, {recursive: true, force: true});
		return () => stage.restart();
	},
	sample: [COPYING, /^host rm run\.json /],
};

/** Written and synced before anything else, so a power cut leaves it whole. */
const SYNCED = 'run.json';

async function dropTails(folder: string): Promise<void> {
	for (const name of (await readdir(folder)).filter(file => file !== SYNCED)) {
		const file = join(folder, name);
		await truncate(file, Math.floor((await stat(file)).size * 0.75));
	}
}

/** That a run comes to its end in such a VM, and what the program's death leaves there. */
function killedIn(vm: VmKind, name: string, title: string, sample: readonly Place[]): Fault {
	return {...KILLED[0]!, name, title, vm, sample};
}

const WITH_THREADS: VmKind = {name: 'iothreads', guest: {iothreads: 2}};

/** Before QEMU 9.0 such a VM is paused for the cut of a fleecing backup. */
const iothreads: readonly Fault[] = [
	killedIn(WITH_THREADS, 'iothreads', 'The program is killed; the VM has I/O threads', [...PAUSE, COPYING]),
	{
		...KILLED[1]!,
		name: 'iothreads-with-guard',
		title: 'The program and its guard are killed; the VM has I/O threads',
		vm: WITH_THREADS,
		sample: [PAUSE[1]!],
	},
	{
		...cutMonitor,
		name: 'iothreads-cut-monitor',
		title: "The monitor's connection is cut; the VM has I/O threads",
		vm: WITH_THREADS,
		sample: PAUSE,
	},
];

const throttled = killedIn(
	{
		name: 'throttled',
		guest: {disks: 'drive'},
		furnish: guest =>
			onMonitor(guest, async execute => {
				for (const disk of guest.images.keys())
					await execute('block_set_io_throttle', {device: `drive-${disk}`, ...LIMITS});
			}),
	},
	'throttled',
	'The program is killed; the disks of the VM are throttled',
	[CUT_IS_TAKEN, COPYING],
);

/** Eight megabytes a second: the guest's writer takes half of it. */
const LIMITS = {bps: 8 << 20, bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: 0};

const otherTool = killedIn(
	{
		name: 'other-tool',
		furnish: async guest => {
			const add = (name: string): object => ({
				'driver': 'null-co',
				'node-name': name,
				'size': 8 << 20,
				'read-zeroes': true,
			});
			await onMonitor(guest, async execute => {
				for (const node of ['other-source', 'other-mirror']) await execute('blockdev-add', add(node));
				await execute('blockdev-mirror', {
					'job-id': 'other-job',
					'device': 'other-source',
					'target': 'other-mirror',
					'sync': 'full',
				});
				await execute('block-dirty-bitmap-add', {node: 'disk-vda', name: 'other-bitmap'});
				await execute('nbd-server-start', {addr: {type: 'unix', data: {path: join(guest.dir, 'other.nbd')}}});
				await execute('block-export-add', {
					'type': 'nbd',
					'id': 'other-export',
					'node-name': 'disk-vdc',
					'name': 'vdc',
				});
			});
		},
	},
	'other-tool',
	'The program is killed; another tool has a mirror job, a bitmap and an export in the VM',
	[CUT_IS_TAKEN, COPYING],
);

const secondRun: Fault = {
	name: 'second-run',
	title: 'A second run on the same VM: it is refused, the first goes on',
	run: 'lives',
	guestBackAfter: 'heal',
	strike: async ({stage}) => {
		await requireRefused(stage);
		return undefined;
	},
	expects: (code, stderr) => {
		if (code !== 0) throw new Error(`the first run ended with ${code ?? 'a signal'}: ${stderr}`);
	},
	at: /^(agent|daemon) |^qmp .. (blockdev|transaction|job|stop|cont|qom-set)/,
	sample: [FREEZE_WINDOW[1]!, COPYING],
};

async function requireRefused(stage: Stage): Promise<void> {
	const args = ['backup', '--qmp', stage.guest.qmp2Path, '--quiesce', 'never', '-r', stage.repository];
	const ended = await stage.run(args);
	if (ended.code !== LOCKED) throw new Error(`the second run was not refused: ${outcomeOf(ended)}`);
}

const LOCKED = 11;

export const VM: readonly Fault[] = [
	killQemu,
	quitQemu,
	cutMonitor,
	powerCut,
	...iothreads,
	throttled,
	otherTool,
	secondRun,
];
