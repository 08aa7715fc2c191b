import {join} from 'node:path';
import type {Aftermath, Interlude} from './interludes.ts';
import type {Ledger} from './ledger.ts';
import {type Moment, momentWords, Watch} from './moments.ts';
import {manifestOf, vmFolder} from './points.ts';
import {type Ended, outcomeOf, Program} from './program.ts';
import type {Random} from './random.ts';
import type {Heal, Stage} from './stage.ts';
import type {Strike} from './strikes.ts';
import type {Tally} from './tally.ts';

/** One run of the program, and what befalls it. */
export interface Attempt {
	readonly number: number;
	readonly interlude: Interlude | undefined;
	/** Options of `quiesce backup`. */
	readonly options: readonly string[];
	readonly strike: Strike | undefined;
	readonly moment: Moment;
}

export function someOptions(random: Random): string[] {
	const kind = random.pick(['auto', 'auto', 'auto', 'auto', 'auto', 'auto', 'auto', 'auto', 'differential', 'full']);
	const method = random.pick(['fleece', 'fleece', 'push', 'push', undefined]);
	const sink = random.pick(['daemon', 'daemon', 'inline']);
	return [
		...['--kind', kind, '--sink', sink],
		...(method === undefined ? [] : ['--method', method]),
		...['--compress', random.pick(['zstd', 'none'])],
		...['--layout', random.pick(['auto', 'chain'])],
		...['--quiesce', random.pick(['try', 'try', 'try', 'never'])],
		// Slow enough that the guest overtakes the copy.
		...(random.chance(0.6) ? ['--speed', `${random.whole(8, 40)}M`] : []),
	];
}

/** How many points have appeared. Whatever befalls the run, each of them has to be right. */
export async function make(attempt: Attempt, stage: Stage, ledger: Ledger, tally: Tally): Promise<number> {
	const {interlude, options, strike, moment, number} = attempt;
	const {vm, repository, runtimeDir} = stage;
	const aftermath: Aftermath = (await interlude?.play(stage, ledger, tally)) ?? {};
	if (interlude) tally.count('between two runs', interlude.name);
	const least = await vm.leastWrites();
	using watch = new Watch(stage, repository);
	const sockets = ['--qmp', vm.guest.qmpPath, '--agent', vm.guest.agentPath];
	const args = ['backup', ...sockets, '-r', repository, '--json', ...options];
	const program = new Program(args, runtimeDir, watch.onLine);
	let heal: Heal | undefined;
	const isStruck = strike !== undefined && (await watch.comesTo(moment, program.ended));
	if (isStruck) {
		heal = await strike.strike(stage, program);
		tally.count('during a run', strike.name);
	}
	const ended = await program.ended;
	// Before QEMU is started again: from then on its disks are counted anew.
	await aftermath.heal?.();
	const appeared = await ledger.takeStock(repository, least);
	await heal?.();

	const befell = isStruck ? `, ${strike.name} ${momentWords(moment)}` : '';
	const before = interlude ? ` after ${interlude.name}` : '';
	console.log(`${number}: ${options.join(' ')}${before}${befell}: ${wordsOf(ended)}`);
	if (ended.hung) tally.find(`the program went on for ever: ${outcomeOf(ended)}`);
	if (!isStruck && aftermath.mayFail !== true) {
		if (ended.code !== 0) tally.find(`nothing befell the run, and it failed: ${outcomeOf(ended)}`);
		if (appeared.length !== 1) tally.find(`the run has brought ${appeared.length} points`);
	}
	if (ended.code === 0 && appeared.length === 0) tally.find('the run succeeded, and there is no point');
	tally.count('runs', ended.code === 0 ? 'succeeded' : 'ended before, of what befell them');
	for (const id of appeared) await enter(id, aftermath, stage, tally);
	return appeared.length;
}

async function enter(id: string, {damaged}: Aftermath, stage: Stage, tally: Tally): Promise<void> {
	const {kind, method, sink, disks} = await manifestOf(join(vmFolder(stage.repository, stage.vm.name), id));
	for (const {name, parent} of disks) {
		if (damaged?.id === parent && damaged.disks.includes(name)) {
			tally.find(`${name} of ${id} is based on a damaged image of ${damaged.id}`);
		}
	}
	tally.count('points', kind);
	tally.count('points by way', `${method} to ${sink}`);
	for (const disk of disks) {
		tally.count('disks', `${disk.kind}, ${disk.layout}`);
		if (disk.reason !== null) tally.count('reasons of disks', disk.reason.replaceAll(/\S*\d{3,}\S*/g, '…'));
	}
	console.log(`  ${id}: ${kind} by ${method}`);
}

function wordsOf(ended: Ended): string {
	return ended.code === 0 ? 'done' : outcomeOf(ended);
}
