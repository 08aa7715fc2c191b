import {apply, type Difference, differences, type DiskState} from './disk-state.ts';
import {writeOf} from './writes.ts';

/** More than a QEMU lives to see. Numbers of another QEMU's writes are so told apart. */
const WRITES_OF_AN_EPOCH = 4_000_000;
/** How many writes may follow the newest that shows, because they are zeroes, or have been overwritten by these. */
const HIDDEN_WRITES = 64;

export interface Explanation {
	/** How many writes were done when the disks were so, or the best that can be said. */
	readonly writes: number;
	readonly expected: readonly DiskState[];
	/** None if these writes, and no others, explain every byte. */
	readonly wrong: readonly Difference[];
}

/** What each QEMU found on the disks, and so what they hold after any number of its guest's writes. */
export class History {
	readonly #sizes: readonly number[];
	readonly #bases: (readonly DiskState[])[] = [];
	/** So that not everything is done again for each point. */
	#latest: {writes: number; states: readonly DiskState[]} = {writes: -1, states: []};

	/** In sectors. */
	constructor(sizes: readonly number[]) {
		this.#sizes = sizes;
	}

	/** Returns the number of the first write that the guest is to do. */
	begin(base: readonly DiskState[]): number {
		this.#bases.push(base);
		return this.first;
	}

	/** Of the QEMU that runs, or was the last to run. */
	get first(): number {
		return (this.#bases.length - 1) * WRITES_OF_AN_EPOCH;
	}

	/**
	 * Which writes of the QEMU that runs leave the disks as they are found. All are of one instant: one number for both.
	 * `dropped` are those of them that had no effect.
	 */
	explain(found: readonly DiskState[], dropped: ReadonlySet<number>): Explanation {
		const newest = found.reduce((most, state) => state.reduce((one, k) => Math.max(one, k), most), this.first - 1);
		return this.between(newest + 1, newest + HIDDEN_WRITES, found, dropped);
	}

	/** The same for an instant at which so many writes were done, at least and at most. Null is a disk that is not looked at. */
	between(
		least: number,
		most: number,
		found: readonly (DiskState | null)[],
		dropped: ReadonlySet<number> = new Set(),
	): Explanation {
		let best: Explanation | undefined;
		for (let writes = least; writes <= most; writes++) {
			const expected = this.#stateAfter(writes, dropped);
			const wrong = differences(expected, found);
			if (!best || wrong.length < best.wrong.length) {
				best = {writes, wrong, expected: expected.map(state => state.slice())};
			}
			if (wrong.length === 0) break;
		}
		return best!;
	}

	/** What the disks hold after so many writes. */
	after(writes: number, dropped: ReadonlySet<number> = new Set()): readonly DiskState[] {
		return this.#stateAfter(writes, dropped).map(state => state.slice());
	}

	#stateAfter(writes: number, dropped: ReadonlySet<number>): readonly DiskState[] {
		if (this.#latest.writes > writes || this.#latest.writes < this.first) {
			this.#latest = {writes: this.first, states: this.#bases.at(-1)!.map(state => state.slice())};
		}
		for (; this.#latest.writes < writes; this.#latest.writes++) {
			const k = this.#latest.writes;
			if (!dropped.has(k)) apply(this.#latest.states, k, writeOf(k, this.#sizes));
		}
		return this.#latest.states;
	}
}
