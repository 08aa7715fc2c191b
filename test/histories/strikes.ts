import {setTimeout as delay} from 'node:timers/promises';
import type {Program} from '../endurance/program.ts';
import type {Random} from '../endurance/random.ts';
import {killAll, ourProcesses} from '../faults/harness/processes.ts';

export type Strike = 'the program is killed' | 'the program and its guard are killed' | 'all of it is killed';

export function someStrike(random: Random): Strike | undefined {
	if (random.chance(0.65)) return undefined;
	return random.pick<Strike>([
		...(['the program is killed', 'the program is killed', 'the program is killed'] as const),
		...(['the program and its guard are killed', 'the program and its guard are killed'] as const),
		'all of it is killed',
	]);
}

/** SIGKILL for a run, and for its guard or all that it has started at the same time. */
export async function strike(what: Strike, program: Program, runtimeDir: string): Promise<void> {
	if (what === 'the program is killed') {
		program.signal('SIGKILL');
		return;
	}
	const ours = await ourProcesses(runtimeDir);
	const isAll = what === 'all of it is killed';
	await killAll(ours.filter(({pid, commandLine}) => pid === program.pid || isAll || /guard-process/.test(commandLine)));
}

/** When a run is struck: so long after its nth line, if there is one, or so long after its start. */
export interface Moment {
	readonly line: number | undefined;
	readonly ms: number;
}

/** `usualMs` is how long such a run takes. */
export function someMoment(random: Random, usualMs: number): Moment {
	if (random.chance(0.5)) return {line: random.whole(1, 8), ms: random.whole(0, 60)};
	return {line: undefined, ms: random.whole(Math.round(usualMs / 4), Math.round(usualMs * 1.1))};
}

/** Hears a run's lines. */
export class Lines {
	#count = 0;
	#wanted: {readonly line: number; readonly came: () => void} | undefined;

	readonly onLine = (): void => {
		this.#count++;
		if (this.#wanted && this.#count >= this.#wanted.line) this.#wanted.came();
	};

	/** False if the run ends before. */
	async comeTo({line, ms}: Moment, ended: Promise<unknown>): Promise<boolean> {
		const came = new Promise<void>(resolve => {
			if (line === undefined || this.#count >= line) resolve();
			else this.#wanted = {line, came: resolve};
		});
		const over = ended.then(() => false);
		return Promise.race([over, came.then(() => delay(ms, true, {ref: false}))]);
	}
}
