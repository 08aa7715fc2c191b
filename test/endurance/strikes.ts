import {killAll, ourProcesses} from '../faults/harness/processes.ts';
import type {Program} from './program.ts';
import type {Heal, Stage} from './stage.ts';
import type {Ending} from './vm.ts';

/** What befalls a run of the program while it works. */
export interface Strike {
	readonly name: string;
	readonly strike: (stage: Stage, program: Program) => Promise<Heal | undefined>;
}

async function nothing(): Promise<undefined> {
	return Promise.resolve(undefined);
}

const signal = (name: NodeJS.Signals) => (_: Stage, program: Program) => {
	program.signal(name);
	return nothing();
};

/** At one time, of all that this run and earlier ones have started. */
const kill =
	(which: RegExp | 'all', andProgram: boolean) =>
	async ({runtimeDir}: Stage, program: Program): Promise<undefined> => {
		const ours = await ourProcesses(runtimeDir);
		await killAll(
			ours.filter(({pid, commandLine}) =>
				pid === program.pid ? andProgram : which === 'all' || which.test(commandLine),
			),
		);
	};

const endVm =
	(how: Ending) =>
	async ({vm}: Stage): Promise<Heal> => {
		await vm.end(how);
		return () => vm.startAgain(how);
	};

const KILLED: Strike = {name: 'the program is killed', strike: signal('SIGKILL')};

export const STRIKES: readonly (readonly [times: number, strike: Strike | undefined])[] = [
	[12, undefined],
	[6, KILLED],
	[3, {name: 'the program and its guard are killed', strike: kill(/guard-process/, true)}],
	[2, {name: 'the program and all that it started are killed', strike: kill('all', true)}],
	[3, {name: 'the storage daemon is killed', strike: kill(/^qemu-storage-daemon/, false)}],
	[2, {name: 'the program is told to end (SIGTERM)', strike: signal('SIGTERM')}],
	[3, {name: 'QEMU is killed', strike: endVm('kill')}],
	[2, {name: 'QEMU is ended in good order', strike: endVm('quit')}],
	[
		3,
		{
			name: 'the target is full',
			strike: async ({disk, random}) => {
				await disk.fill(random.whole(0, 8 << 20));
				return () => disk.empty();
			},
		},
	],
];
