import {rm} from 'node:fs/promises';
import {join} from 'node:path';
import {clustersOf, type Difference, differences, type DiskState} from './disk-state.ts';
import {
	convertPoint,
	ext4Hashes,
	judgeFileSystems,
	manifestOf,
	type Restored,
	visiblePoints,
	vmFolder,
	writtenStates,
} from './points.ts';
import {outcomeOf, Program} from './program.ts';
import type {Stage} from './stage.ts';
import type {Tally} from './tally.ts';

/** What a point has to give back for as long as it is there. */
interface Entry {
	readonly expected: readonly DiskState[];
	readonly ext4: string;
}

/** Knows each point from the moment when it appears. */
export class Ledger {
	readonly #stage: Stage;
	readonly #tally: Tally;
	readonly #entries = new Map<string, Map<string, Entry>>();

	constructor(stage: Stage, tally: Tally) {
		this.#stage = stage;
		this.#tally = tally;
	}

	/**
	 * Judges the points that have appeared since the last time, while the QEMU that they are of is the last one still, and
	 * returns their ids. `leastWrites` were done before their cut.
	 */
	async takeStock(repository: string, leastWrites: number): Promise<string[]> {
		const known = this.#known(repository);
		const there = await visiblePoints(repository, this.#stage.vm.name);
		for (const id of known.keys()) if (!there.includes(id)) this.#tally.find(`point ${id} has gone`);
		const appeared = there.filter(id => !known.has(id));
		for (const id of appeared) known.set(id, await this.#enter(repository, id, leastWrites));
		return appeared;
	}

	known(repository: string): string[] {
		return [...this.#known(repository).keys()];
	}

	/** It has been removed, which is right. */
	forget(repository: string, id: string): void {
		this.#known(repository).delete(id);
	}

	/** All that are there once more, both by hand and by the program. */
	async judgeAll(repository: string): Promise<void> {
		const {vm, folder, runtimeDir} = this.#stage;
		const there = await visiblePoints(repository, vm.name);
		for (const [id, entry] of this.#known(repository)) {
			if (!there.includes(id)) {
				this.#tally.find(`point ${id} has gone`);
				continue;
			}
			const to = join(folder, 'restored');
			const byHand = (): Promise<void> => convertPoint(join(vmFolder(repository, vm.name), id), to);
			const byProgram = async (): Promise<void> => {
				const args = ['restore', `${vm.name}@${id}`, '-r', repository, '--to', to, '--format', 'raw'];
				const ended = await new Program(args, runtimeDir).ended;
				if (ended.code !== 0) throw new Error(outcomeOf(ended));
			};
			for (const [how, bring] of [
				['by qemu-img', byHand],
				['by quiesce restore', byProgram],
			] as const) {
				try {
					await bring();
					this.#compare(`${id} ${how}`, differences(entry.expected, await writtenStates(to)), entry.expected);
					if ((await ext4Hashes(to)) !== entry.ext4) this.#tally.find(`${id} ${how}: a file system is not what it was`);
				} catch (error) {
					this.#tally.find(`${id} ${how}: ${String(error)}`);
				}
				await rm(to, {recursive: true, force: true});
			}
		}
	}

	#known(repository: string): Map<string, Entry> {
		const known = this.#entries.get(repository) ?? new Map<string, Entry>();
		this.#entries.set(repository, known);
		return known;
	}

	async #enter(repository: string, id: string, leastWrites: number): Promise<Entry> {
		const {vm, folder} = this.#stage;
		const point = join(vmFolder(repository, vm.name), id);
		const to: Restored = join(folder, 'appeared');
		await convertPoint(point, to);
		const found = await writtenStates(to);
		const {writes, wrong, expected} = await vm.explain(found);
		this.#compare(id, wrong, expected);
		if (writes < leastWrites) {
			this.#tally.find(`${id} shows ${writes} writes, and ${leastWrites} were done before the backup began`);
		}
		const {consistency} = await manifestOf(point);
		for (const problem of await judgeFileSystems(to, consistency === 'quiesced')) this.#tally.find(`${id}: ${problem}`);
		const ext4 = await ext4Hashes(to);
		await rm(to, {recursive: true});
		return {expected, ext4};
	}

	#compare(what: string, wrong: readonly Difference[], expected: readonly DiskState[]): void {
		this.#tally.restores++;
		this.#tally.clusters += clustersOf(expected);
		this.#tally.wrongClusters += wrong.length;
		if (wrong.length === 0) return;
		this.#tally.find(`${what}: ${wrong.length} wrong clusters, such as ${JSON.stringify(wrong.slice(0, 3))}`);
	}
}
