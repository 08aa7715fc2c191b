import {asError} from '../errors.ts';
import type {VmaOutput} from './output.ts';

interface Waiting {
	readonly output: VmaOutput;
	readonly pieces: readonly Buffer[];
	readonly holdsBytes: number;
	readonly written: (() => void) | undefined;
}

/** Of additions, however small: what is written at once should not keep anything else waiting for long. */
const MAX_WAITING = 512;

/** Writes what it is given in its order. What comes while something is written goes out together then. */
export class OutputQueue {
	readonly #maxBytes: number;
	#waiting: Waiting[] = [];
	#holdsBytes = 0;
	#running: Promise<void> | undefined;
	#failure: Error | undefined;
	readonly #failed = Promise.withResolvers<undefined>();
	readonly #refill: () => void;

	/** `refill` is called when nothing is left to be written, and may add some. */
	constructor(maxBytes: number, refill: () => void) {
		this.#maxBytes = maxBytes;
		this.#refill = refill;
	}

	/** `holdsBytes`: of memory, until it is written; `written` is called then. */
	add(output: VmaOutput, pieces: readonly Buffer[], holdsBytes: number, written?: () => void): void {
		this.#waiting.push({output, pieces, holdsBytes, written});
		this.#holdsBytes += holdsBytes;
		this.start();
	}

	/** Has what is ready written, or asks for it. */
	start(): void {
		this.#running ??= this.#run();
	}

	/** Whether whoever adds should wait for {@link room}. */
	get isFull(): boolean {
		return this.#holdsBytes > this.#maxBytes || this.#waiting.length >= MAX_WAITING;
	}

	/** Nothing more is written, and whoever waits gets the error, if there was none before. */
	fail(error: unknown): void {
		this.#failure ??= asError(error);
		this.#failed.resolve(undefined);
	}

	/** Resolves when more can be added. Throws why nothing can be written any more. */
	async room(): Promise<void> {
		while (this.isFull && !this.#failure) await this.#progress();
		if (this.#failure) throw this.#failure;
	}

	/** Resolves when all is written. */
	async drained(): Promise<void> {
		await this.#progress();
		if (this.#failure) throw this.#failure;
	}

	/** Resolves when there was a failure, with which everything fails. */
	get failed(): Promise<undefined> {
		return this.#failed.promise;
	}

	/** An output that hangs is not waited for any more once there was a failure. */
	async #progress(): Promise<void> {
		await Promise.race([this.#running, this.#failed.promise]);
	}

	/** Never rejects: whoever waits, or comes next, is told. */
	async #run(): Promise<void> {
		try {
			// Those who come at the same time go out together.
			await Promise.resolve();
			while (!this.#failure) {
				if (this.#waiting.length === 0) this.#refill();
				if (this.#waiting.length === 0) break;
				await this.#writeFirst();
			}
		} catch (error) {
			this.fail(error);
		}
		this.#running = undefined;
	}

	/** And what follows it to the same output. */
	async #writeFirst(): Promise<void> {
		const output = this.#waiting[0]?.output;
		const other = this.#waiting.findIndex(waiting => waiting.output !== output);
		const together = this.#waiting.splice(0, other === -1 ? this.#waiting.length : other);
		await output?.(together.flatMap(({pieces}) => pieces));
		for (const {holdsBytes, written} of together) {
			this.#holdsBytes -= holdsBytes;
			written?.();
		}
	}
}
