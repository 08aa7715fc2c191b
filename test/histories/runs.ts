import {existsSync} from 'node:fs';
import {readdir} from 'node:fs/promises';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {type Ended, outcomeOf, Program} from '../endurance/program.ts';
import type {Random} from '../endurance/random.ts';
import type {Tally} from '../endurance/tally.ts';
import {ourProcesses} from '../faults/harness/processes.ts';
import {makeOld} from '../endurance/points.ts';
import {leftovers} from './leftovers.ts';
import type {Operation} from './operations.ts';
import {Lines, someMoment, someStrike, strike, type Strike} from './strikes.ts';
import type {HistoryVm} from './vm.ts';
import {linesOf, spoiledIn, type World} from './world.ts';

/** A guard, and what it does when its run has died, have to end in that time. */
const GUARD_MS = 120_000;
const REFUSED = 21;

/** How long the runs of an operation have taken, so that they are struck at any of their steps. */
const usualMs = new Map<string, number>();

export interface RunsOptions {
	readonly random: Random;
	readonly vm: HistoryVm;
	readonly runtimeDir: string;
	readonly repository: string;
	readonly tally: Tally;
	readonly log: (line: string) => void;
	readonly kills: boolean;
	/** Is told of each world that is seen. */
	readonly onSeen: (world: World) => Promise<void>;
}

/** Runs the program and strikes it, and knows what may have come of it. */
export class Runs {
	readonly #options: RunsOptions;
	/** One, but while it is not seen what a killed run has done. */
	#worlds: readonly World[];
	#isSettled = true;

	constructor(world: World, options: RunsOptions) {
		[this.#worlds, this.#options] = [[world], options];
	}

	/** Where several are possible, one of them. */
	get world(): World {
		return this.#worlds[0]!;
	}

	/** The operator does that, not the program. */
	become(world: World): void {
		this.#worlds = [world];
	}

	async run(operation: Operation): Promise<void> {
		const {random, vm, runtimeDir, tally, log, kills} = this.#options;
		// A guard has the monitor while it is at work, which serves one client.
		await this.untilNobodyIsAtWork();
		const hit = kills ? someStrike(random) : undefined;
		const moment = someMoment(random, usualMs.get(operation.name) ?? 1_000);
		const lines = new Lines();
		const words = operation.args[0] === 'snapshot' ? 2 : 1;
		const options = ['--qmp', vm.qmpPath, '--json', ...operation.args.slice(words)];
		const program = new Program([...operation.args.slice(0, words), ...options], runtimeDir, lines.onLine);
		const isStruck = hit !== undefined && (await lines.comeTo(moment, program.ended));
		if (isStruck) await strike(hit, program, runtimeDir);
		const ended = await program.ended;
		tally.count('runs', operation.name);
		log(`  ${this.#short(operation.args.join(' '))}: ${isStruck ? `${hit}, ` : ''}${wordsOf(ended)}`);
		await this.#conclude(operation, ended, isStruck ? hit : undefined);
	}

	/** Until one world is left. */
	async settle(): Promise<void> {
		if (!this.#isSettled) await this.recover();
	}

	async recover(): Promise<void> {
		await this.#recover();
		await this.#see();
	}

	async #recover(): Promise<void> {
		const {vm, runtimeDir, repository, tally, log} = this.#options;
		await this.untilNobodyIsAtWork();
		await makeOld(await this.#hidden());
		// The first backup makes it.
		const options = existsSync(join(repository, 'repository.json')) ? ['-r', repository] : [];
		const ended = await new Program(['recover', '--qmp', vm.qmpPath, ...options], runtimeDir).ended;
		if (ended.code !== 0) tally.find(`recover: ${outcomeOf(ended)}`);
		tally.count('runs', 'recover');
		log(`  recover: ${ended.stderr.trim().replaceAll('\n', '\n    ')}`);
	}

	async untilNobodyIsAtWork(): Promise<void> {
		const since = performance.now();
		while ((await ourProcesses(this.#options.runtimeDir)).length > 0 && performance.now() - since < GUARD_MS) {
			await delay(200);
		}
	}

	async #conclude(
		{name, after, halfway, mayBeRefused = () => false}: Operation,
		ended: Ended,
		hit: Strike | undefined,
	): Promise<void> {
		const {random, tally} = this.#options;
		const wanted = this.#worlds.flatMap(world => after(world));
		if (ended.hung) tally.find(`${name} went on for ever: ${outcomeOf(ended)}`);
		if (hit !== undefined) tally.count('strikes', hit);
		if (ended.code === 0) {
			if (wanted.length === 0) tally.find(`${name} was to be refused, and has succeeded`);
			this.#worlds = wanted;
			usualMs.set(name, ended.ms);
			tally.count('succeeded', name);
		} else if (ended.code === REFUSED && this.#worlds.some(world => after(world).length === 0 || mayBeRefused(world))) {
			tally.count('refused, as they should be', name);
		} else if (hit === undefined) {
			tally.find(`nothing befell ${name}, and it failed: ${outcomeOf(ended)}`);
		} else {
			this.#worlds = this.#worlds.flatMap(world => [world, ...halfway(world), ...wanted]);
		}
		if (hit === undefined) {
			if (ended.code === 0) await this.#see();
			return;
		}
		this.#isSettled = false;
		const next = random.pick(['its guard ends it', 'recover', 'the next run']);
		if (next === 'recover') await this.recover();
		if (next === 'its guard ends it' && hit === 'the program is killed') await this.#see();
	}

	/** Which of the worlds it is. */
	async #see(): Promise<void> {
		const {vm, runtimeDir, tally, log, random, onSeen} = this.#options;
		await this.untilNobodyIsAtWork();
		// A snapshot that does not say yet whose it is is left alone for half a minute.
		if ((await this.#hidden()).length > 0) await this.#recover();
		this.#isSettled = true;
		// It takes long to ask the program each time.
		const asks = this.#worlds.length > 1 || random.chance(0.4);
		const linesFor = (world: World): string =>
			linesOf({...world, spare: new Map()})
				.map(line => (asks ? line : line.replace(/ is (whole|broken)$/, '')))
				.join('\n    ');
		const chains = Array.from(await vm.chains(), ([disk, chain]) => `${disk}: ${chain.join(' <- ')}`);
		const found = [...chains, ...(asks ? await this.#listed() : await this.#noted())].sort().join('\n    ');
		const left: string[] = [];
		// A snapshot that is broken anyway does not show whether it was spoiled too.
		const fitting = this.#worlds
			.filter(world => linesFor(world) === found)
			.toSorted((one, other) => spoiledIn(other) - spoiledIn(one));
		for (const world of fitting) {
			const its = await leftovers(vm, world, runtimeDir);
			left.push(...its);
			if (its.length > 0) continue;
			this.#worlds = [world];
			log(`    ${this.#short(linesOf(world).join('\n    '))}`);
			await onSeen(world);
			return;
		}
		const wanted = this.#worlds.map(linesFor).join('\n   nor\n    ');
		tally.find(fitting.length > 0 ? `left: ${left.join('; ')}` : `${found}\n   and not\n    ${wanted}`);
		throw new Error('the history cannot go on');
	}

	async #noted(): Promise<string[]> {
		const names = await readdir(this.#notes).catch(() => []);
		return names.map(name => `snapshot ${name}`);
	}

	/** Folders of snapshots that are not there yet, or no more. */
	async #hidden(): Promise<string[]> {
		const names = await readdir(this.#notes).catch(() => []);
		return names.filter(name => name.startsWith('.')).map(name => join(this.#notes, name));
	}

	get #notes(): string {
		const {vm} = this.#options;
		return join(vm.images, `${vm.name}.snapshots`);
	}

	async #listed(): Promise<string[]> {
		const {vm, runtimeDir} = this.#options;
		const ended = await new Program(['snapshot', 'list', '--qmp', vm.qmpPath, '--json'], runtimeDir).ended;
		if (ended.code !== 0) throw new Error(`snapshot list: ${outcomeOf(ended)}`);
		const {snapshots} = JSON.parse(ended.stdout) as {snapshots: {name: string; state: string}[]};
		return snapshots.map(({name, state}) => `snapshot ${name} is ${state}`);
	}

	#short(text: string): string {
		return text.replaceAll(`${this.#options.vm.images}/`, '');
	}
}

function wordsOf(ended: Ended): string {
	return ended.code === 0 ? `done in ${Math.round(ended.ms)} ms` : outcomeOf(ended);
}
