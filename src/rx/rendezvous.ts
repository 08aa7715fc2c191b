/**
 * Where several pieces of work that run side by side wait for one another, stage by stage: nobody leaves a stage before
 * all have come to it. Once it has failed, whoever waits and whoever comes later fails with the same reason, so that
 * each can undo itself. It begins nothing, and ends nothing but waiting.
 */
export class Rendezvous {
	readonly #members: readonly string[];
	readonly #stages = new Map<string, Stage>();
	readonly #failure = new AbortController();

	constructor(members: readonly string[]) {
		this.#members = members;
	}

	/** Aborted by the first failure, with its reason. */
	get signal(): AbortSignal {
		return this.#failure.signal;
	}

	/** Only the first reason counts. */
	fail(reason: Error): void {
		if (this.signal.aborted) return;
		this.#failure.abort(reason);
		for (const {reject} of this.#stages.values()) reject(reason);
	}

	/**
	 * Resolves when all members have come to `stage`, to which each comes once. Whoever has waited for longer than
	 * `atMost.ms` fails the whole, with what `atMost.late` makes of the members that are missing.
	 */
	async arrive(member: string, stage: string, atMost?: Bound): Promise<void> {
		this.signal.throwIfAborted();
		const {arrived, promise, resolve} = this.#stage(stage);
		arrived.add(member);
		const missing = (): string[] => this.#members.filter(candidate => !arrived.has(candidate));
		if (missing().length === 0) resolve(undefined);
		const timer = atMost
			? setTimeout(() => {
					this.fail(atMost.late(missing()));
				}, atMost.ms)
			: undefined;
		try {
			await promise;
		} finally {
			clearTimeout(timer);
		}
	}

	#stage(name: string): Stage {
		const known = this.#stages.get(name);
		if (known) return known;
		const stage: Stage = {...Promise.withResolvers<undefined>(), arrived: new Set()};
		// Nobody may be waiting when it fails.
		stage.promise.catch(() => undefined);
		this.#stages.set(name, stage);
		return stage;
	}
}

export interface Bound {
	/** Milliseconds. */
	readonly ms: number;
	readonly late: (missing: readonly string[]) => Error;
}

interface Stage extends PromiseWithResolvers<undefined> {
	readonly arrived: Set<string>;
}
