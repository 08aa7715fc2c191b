/** The same numbers for the same seed. */
export class Random {
	#state: number;

	constructor(seed: number) {
		this.#state = seed >>> 0;
	}

	/** From 0 to below 1. */
	real(): number {
		this.#state = (this.#state + 0x6d2b79f5) >>> 0;
		let x = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
		x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
		return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
	}

	/** A whole number from `least` to `most`, both of them possible. */
	whole(least: number, most: number): number {
		return least + Math.floor(this.real() * (most - least + 1));
	}

	pick<Thing>(things: readonly [Thing, ...Thing[]]): Thing {
		return things[this.whole(0, things.length - 1)] ?? things[0];
	}

	chance(probability: number): boolean {
		return this.real() < probability;
	}
}

/** Deals each card as often as it says before any comes again, so that a short run has all of them too. */
export class Deck<Card> {
	readonly #random: Random;
	readonly #cards: readonly Card[];
	#left: Card[] = [];

	constructor(random: Random, cards: readonly (readonly [times: number, card: Card])[]) {
		this.#random = random;
		this.#cards = cards.flatMap(([times, card]) => Array.from({length: times}, () => card));
	}

	deal(): Card {
		if (this.#left.length === 0) this.#left = [...this.#cards];
		return this.#left.splice(this.#random.whole(0, this.#left.length - 1), 1)[0] as Card;
	}
}
