import {mkdir, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {blankState} from '../endurance/disk-state.ts';
import {History} from '../endurance/history.ts';
import {Deck, Random} from '../endurance/random.ts';
import type {Tally} from '../endurance/tally.ts';
import {SECTOR_BYTES} from '../endurance/writes.ts';
import {killAll, ourProcesses} from '../faults/harness/processes.ts';
import {Judge} from './judge.ts';
import {create, someBackup, someCommit, someDeletion, someStream} from './operations.ts';
import {Runs} from './runs.ts';
import {HistoryVm} from './vm.ts';
import {isWhole, tidy, type World} from './world.ts';
import {Writer} from './writer.ts';

export interface HistoryOptions {
	readonly seed: number;
	/** How many are taken; others may be taken in vain. */
	readonly snapshots: number;
	/** How many merges and other things are done after each, at the most. */
	readonly between: number;
	/** Whether runs are killed. */
	readonly kills: boolean;
	/** An empty folder. */
	readonly folder: string;
	readonly tally: Tally;
	/** Is told what happens. */
	readonly log: (line: string) => void;
}

const INTERLUDES = [
	[3, 'commit'],
	[2, 'stream'],
	[2, 'delete'],
	[1, 'backup'],
	[1, 'recover'],
	[1, 'restart'],
	[1, 'tidy'],
	[1, 'look'],
] as const;

/** Takes snapshots of a guest that writes all the time, merges them in all ways, and judges what comes of it. */
export async function playHistory(options: HistoryOptions): Promise<void> {
	const {seed, folder, log} = options;
	const random = new Random(seed);
	await using vm = await HistoryVm.start(folder, `history-${seed}-${process.pid}`, random.chance(0.5) ? 2 : 3);
	log(`history ${seed}: ${vm.disks.length} disks`);
	const runtimeDir = join(folder, 'runtime');
	try {
		await new Play(options, {random, vm, runtimeDir}).play();
	} finally {
		await killAll(await ourProcesses(runtimeDir));
	}
}

interface Stage {
	readonly random: Random;
	readonly vm: HistoryVm;
	readonly runtimeDir: string;
}

class Play {
	readonly #options: HistoryOptions;
	readonly #random: Random;
	readonly #vm: HistoryVm;
	readonly #writer: Writer;
	readonly #judge: Judge;
	readonly #runs: Runs;
	readonly #repository: string;
	/** Of the VM in there. */
	readonly #points: string;
	/** The writes that were done when the world was last seen. */
	#least = 0;
	/** Given, also to snapshots that have not come to be. */
	#names = 0;
	#taken = 0;

	constructor(options: HistoryOptions, {random, vm, runtimeDir}: Stage) {
		[this.#options, this.#random, this.#vm] = [options, random, vm];
		const {folder, tally, log, kills} = options;
		this.#repository = join(folder, 'repository');
		this.#points = join(this.#repository, 'vms', vm.name);
		const sizes = vm.disks.map(({bytes}) => bytes / SECTOR_BYTES);
		const history = new History(sizes);
		history.begin(sizes.map(blankState));
		this.#writer = new Writer(vm, sizes);
		this.#judge = new Judge({vm, writer: this.#writer, history, tally});
		const chains = new Map(vm.disks.map(({name}) => [name, [vm.firstImage(name)]]));
		const world = {chains, snapshots: new Map(), spare: new Map()};
		const onSeen = (seen: World): Promise<void> => this.#enter(seen);
		this.#runs = new Runs(world, {random, vm, runtimeDir, repository: this.#repository, tally, log, kills, onSeen});
	}

	async play(): Promise<void> {
		await mkdir(this.#repository, {mode: 0o700});
		this.#writer.start();
		const interludes = new Deck(this.#random, INTERLUDES);
		while (this.#taken < this.#options.snapshots) {
			const name = `hour-${String(++this.#names).padStart(2, '0')}`;
			await this.#runs.run(create(this.#random, this.#runs.world, {name, images: this.#vm.images}));
			for (let nth = this.#random.whole(0, this.#options.between); nth > 0; nth--)
				await this.#interlude(interludes.deal());
		}
		await this.#runs.recover();
		await this.#lookAtAll();
		await this.#quit();
		await this.#judge.judgePoints(this.#points);
		const {tally} = this.#options;
		const {world} = this.#runs;
		tally.count('histories', 'played');
		tally.count('snapshots', 'taken', this.#taken);
		tally.count(
			'snapshots',
			'whole in the end',
			[...world.snapshots.values()].filter(one => isWhole(world, one)).length,
		);
		tally.count('writes', 'done', this.#writer.writes);
	}

	async #interlude(what: (typeof INTERLUDES)[number][1]): Promise<void> {
		if (what === 'recover') return this.#runs.recover();
		if (what === 'backup') return this.#backUp();
		await this.#runs.settle();
		switch (what) {
			case 'restart':
				return this.#restart();
			case 'tidy':
				return this.#tidy();
			case 'look':
				return this.#lookAtAll();
			case 'commit':
			case 'stream':
			case 'delete': {
				const some = {commit: someCommit, stream: someStream, delete: someDeletion}[what];
				const operation = some(this.#random, this.#runs.world);
				if (operation) await this.#runs.run(operation);
			}
		}
	}

	async #backUp(): Promise<void> {
		const least = this.#writer.writes;
		await this.#runs.run(someBackup(this.#random, this.#repository));
		await this.#runs.untilNobodyIsAtWork();
		const points = await this.#judge.enterPoints(this.#points, {least, most: this.#writer.writes + 1});
		this.#options.tally.count('points', 'taken', points);
	}

	async #enter(world: World): Promise<void> {
		const span = {least: this.#least, most: this.#writer.writes + 1};
		this.#taken += await this.#judge.enterSnapshots(world, span);
		this.#least = this.#writer.writes;
	}

	async #lookAtAll(): Promise<void> {
		await this.#runs.settle();
		await this.#judge.judgeSnapshots(this.#runs.world);
		await this.#writer.halt();
		for (const index of this.#vm.disks.keys()) await this.#vm.io(index, 'flush');
		await this.#judge.judgeActive(this.#runs.world);
		this.#writer.start();
	}

	async #restart(): Promise<void> {
		await this.#quit();
		const {chains} = this.#runs.world;
		await this.#vm.startAgain(new Map(Array.from(chains, ([disk, [active = '']]) => [disk, active])));
		this.#options.tally.count('between two runs', 'QEMU is ended and started again');
		this.#writer.start();
	}

	async #quit(): Promise<void> {
		await this.#writer.halt();
		await this.#vm.quit();
		await this.#judge.checkImages(this.#runs.world);
		await this.#judge.judgeActive(this.#runs.world);
	}

	/** The operator removes what is of no more use. */
	async #tidy(): Promise<void> {
		const {world} = this.#runs;
		if (world.spare.size === 0) return;
		for (const file of world.spare.keys()) await rm(file);
		this.#runs.become(tidy(world));
		this.#options.tally.count('between two runs', 'files that are in no chain are removed');
	}
}
