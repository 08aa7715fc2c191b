/** What has come of it. */
export class Tally {
	readonly wrong: string[] = [];
	clusters = 0;
	wrongClusters = 0;
	restores = 0;
	readonly #counts = new Map<string, Map<string, number>>();

	/** Prints it at once, as a run takes long. */
	find(what: string): void {
		this.wrong.push(what);
		console.log(`  WRONG: ${what}`);
	}

	count(group: string, name: string, times = 1): void {
		const counts = this.#counts.get(group) ?? new Map<string, number>();
		counts.set(name, (counts.get(name) ?? 0) + times);
		this.#counts.set(group, counts);
	}

	of(group: string, name: string): number {
		return this.#counts.get(group)?.get(name) ?? 0;
	}

	/** A line for each group, and one for each thing in it. */
	lines(): string[] {
		return Array.from(this.#counts, ([group, counts]) => [
			`${group}:`,
			...Array.from(counts)
				.sort(([one], [other]) => one.localeCompare(other))
				.map(([name, times]) => `  ${String(times).padStart(4)}  ${name}`),
		]).flat();
	}
}
