import {readdir, readFile, rm} from 'node:fs/promises';
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {clustersOf, type Difference, differences, type DiskState, readState} from '../endurance/disk-state.ts';
import type {History} from '../endurance/history.ts';
import type {Tally} from '../endurance/tally.ts';
import {output} from '../guest/command.ts';
import type {PointManifest} from '../../src/repository/manifest.ts';
import type {HistoryVm} from './vm.ts';
import {activeOf, showsDisk, type World} from './world.ts';
import type {Writer} from './writer.ts';

/** For each disk, or null for one that it leaves out. */
type Shown = readonly (DiskState | null)[];

/** The writes that were done when a run began, and when it had ended. */
export interface Span {
	readonly least: number;
	readonly most: number;
}

interface JudgeParts {
	readonly vm: HistoryVm;
	readonly writer: Writer;
	readonly history: History;
	readonly tally: Tally;
}

/** Knows what each snapshot and each point has to show from the moment when it appears, and compares every byte. */
export class Judge {
	readonly #vm: HistoryVm;
	readonly #writer: Writer;
	readonly #history: History;
	readonly #tally: Tally;
	readonly #snapshots = new Map<string, Shown>();
	readonly #points = new Map<string, Shown>();

	constructor({vm, writer, history, tally}: JudgeParts) {
		[this.#vm, this.#writer, this.#history, this.#tally] = [vm, writer, history, tally];
	}

	/** Those that have appeared, which were cut within the span. Returns how many. */
	async enterSnapshots(world: World, span: Span): Promise<number> {
		let entered = 0;
		for (const name of this.#snapshots.keys()) if (!world.snapshots.has(name)) this.#snapshots.delete(name);
		for (const name of world.snapshots.keys()) {
			if (this.#snapshots.has(name)) continue;
			const found = await this.#foundOf(world, name);
			this.#snapshots.set(name, this.#enter(`snapshot ${name}`, found, span));
			entered++;
		}
		return entered;
	}

	/** That all snapshots show what they have shown, as far as their images are there. */
	async judgeSnapshots(world: World): Promise<void> {
		for (const [name, expected] of this.#snapshots) {
			const found = await this.#foundOf(world, name);
			this.#compare(`snapshot ${name}`, expected, found);
		}
	}

	async enterPoints(folder: string, span: Span): Promise<number> {
		const names = (await readdir(folder).catch(() => [])).filter(name => /^\d/.test(name) && !this.#points.has(name));
		for (const id of names)
			this.#points.set(id, this.#enter(`point ${id}`, await this.#pointIn(join(folder, id)), span));
		return names.length;
	}

	async judgePoints(folder: string): Promise<void> {
		for (const [id, expected] of this.#points) {
			if (!existsSync(join(folder, id))) this.#tally.find(`point ${id} has gone`);
			else this.#compare(`point ${id}`, expected, await this.#pointIn(join(folder, id)));
		}
	}

	/** With no write at work, and what QEMU has in memory flushed: the disks hold what was written, and nothing else. */
	async judgeActive(world: World): Promise<void> {
		const found = await Promise.all(this.#vm.disks.map(({name}, index) => this.#read(activeOf(world, name), index)));
		this.#compare('the disks', this.#history.after(this.#writer.writes), found);
	}

	/** Once QEMU has ended. */
	async checkImages(world: World): Promise<void> {
		for (const file of [...world.chains.values()].flat()) {
			if (this.#vm.image(file).format === 'raw') continue;
			await output('qemu-img', ['check', '-q', '-f', 'qcow2', file]).catch((error: unknown) => {
				this.#tally.find(`${file}: ${String(error)}`);
			});
		}
	}

	#enter(what: string, found: Shown, {least, most}: Span): Shown {
		const {wrong, expected} = this.#history.between(least, most, found);
		const shown = expected.map((state, disk) => (found[disk] ? state : null));
		this.#count(what, shown, wrong);
		return shown;
	}

	#compare(what: string, expected: Shown, found: Shown): void {
		const both = expected.map((state, disk) => (found[disk] ? state : null));
		const wrong = both.flatMap((state, disk) =>
			(state ? differences([state], [found[disk] ?? null]) : []).map(difference => ({...difference, disk})),
		);
		this.#count(what, both, wrong);
	}

	#count(what: string, shown: Shown, wrong: readonly Difference[]): void {
		const states = shown.filter(state => state !== null);
		if (states.length > 0) this.#tally.restores++;
		this.#tally.clusters += clustersOf(states);
		this.#tally.wrongClusters += wrong.length;
		if (wrong.length === 0) return;
		this.#tally.find(`${what}: ${wrong.length} wrong clusters, such as ${JSON.stringify(wrong.slice(0, 3))}`);
	}

	async #foundOf(world: World, name: string): Promise<Shown> {
		const snapshot = world.snapshots.get(name);
		return Promise.all(
			this.#vm.disks.map(async ({name: disk}, index) => {
				const images = snapshot?.get(disk);
				return images && showsDisk(world, disk, images) ? this.#read(images.base, index) : null;
			}),
		);
	}

	async #pointIn(folder: string): Promise<Shown> {
		const {disks} = JSON.parse(await readFile(join(folder, 'point.json'), 'utf8')) as PointManifest;
		return Promise.all(
			this.#vm.disks.map(async ({name}, index) => {
				const file = disks.find(disk => disk.name === name)?.file;
				return file === undefined ? null : this.#read(join(folder, file), index);
			}),
		);
	}

	async #read(file: string, disk: number): Promise<DiskState> {
		const raw = join(this.#vm.folder, `content-${disk}.raw`);
		const {format} = this.#vm.image(file);
		await output('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', file, raw]);
		const state = await readState(raw, disk);
		await rm(raw);
		return state;
	}
}
