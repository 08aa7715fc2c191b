import {writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {type Write, SECTOR_BYTES, sectorsOf, writeOf} from '../endurance/writes.ts';
import type {HistoryVm} from './vm.ts';

/** So that others get to work too, on a small machine. */
const PAUSE_MS = 3;

/** Is the guest: does one write after the other through the devices, each of which is a function of its number alone. */
export class Writer {
	readonly #vm: HistoryVm;
	readonly #sizes: readonly number[];
	readonly #data: string;
	#writes = 0;
	#loop: Promise<void> = Promise.resolve();
	#isOn = false;

	/** `sizes` are those of the disks, in sectors. */
	constructor(vm: HistoryVm, sizes: readonly number[]) {
		this.#vm = vm;
		this.#sizes = sizes;
		this.#data = join(vm.folder, 'write.data');
	}

	/** How many writes are done. One more may be at work. */
	get writes(): number {
		return this.#writes;
	}

	start(): void {
		this.#isOn = true;
		this.#loop = this.#write();
		// It is told of when the writer is halted.
		this.#loop.catch(() => undefined);
	}

	/** Resolves once no write is at work; throws if one has failed. */
	async halt(): Promise<void> {
		this.#isOn = false;
		await this.#loop;
	}

	async #write(): Promise<void> {
		while (this.#isOn) {
			const write = writeOf(this.#writes, this.#sizes);
			await this.#vm.io(write.disk, await this.#commandOf(this.#writes, write));
			this.#writes++;
			await delay(PAUSE_MS);
		}
	}

	/** For `qemu-io`. What is discarded need not be zero, and it is not told; so it is written with zeroes that may be holes. */
	async #commandOf(k: number, write: Write): Promise<string> {
		const [at, length] = [write.at * SECTOR_BYTES, write.length * SECTOR_BYTES];
		if (write.kind === 'discard') return `write -q -z -u ${at} ${length}`;
		if (write.kind === 'zero') return `write -q -z ${at} ${length}`;
		await writeFile(this.#data, sectorsOf(k, write));
		return `write -q -s ${this.#data} ${at} ${length}`;
	}
}
