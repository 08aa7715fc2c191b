import {readdir, readFile, rm} from 'node:fs/promises';
import {setPriority} from 'node:os';
import {join} from 'node:path';
import {blankImage, ext4Image, type Image, rawCopy} from '../guest/disks.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {rawStatsIn} from '../guest/serial.ts';
import {blankState, type DiskState, readState} from './disk-state.ts';
import {type Explanation, History} from './history.ts';
import {SECTOR_BYTES, UNKNOWN} from './writes.ts';

/** As `nice` has it. */
const PREFERENCE = -20;
const EXT4_BYTES = 16 << 20;
/** The second does not end with a cluster. */
const WRITTEN = [
	{name: 'vdc', bytes: 64 << 20},
	{name: 'vdd', bytes: (64 << 20) + SECTOR_BYTES},
] as const;
const SIZES = WRITTEN.map(({bytes}) => bytes / SECTOR_BYTES);

/** The disks whose every byte is known. */
export const WRITTEN_DISKS = WRITTEN.map(({name}) => name);
/** Those with file systems. */
export const EXT4_DISKS = ['vda', 'vdb'] as const;

/** How a QEMU ends: at once, as in a power cut, or with its images closed. */
export type Ending = 'kill' | 'quit';

/** A VM that is started again and again on the same disks, and writes as long as it runs. */
export class WritingVm implements AsyncDisposable {
	readonly name: string;
	readonly #history = new History(SIZES);
	readonly #folder: string;
	readonly #rate: number;
	readonly #ext4: Record<(typeof EXT4_DISKS)[number], Image>;
	#guest: Guest | undefined;
	#console = '';
	#startedAt = 0;
	/** Of the QEMUs that have ended. */
	readonly #done = {writes: 0, seconds: 0, errors: 0};

	private constructor(folder: string, name: string, rate: number, vda: Image, vdb: Image) {
		this.#folder = folder;
		this.name = name;
		this.#rate = rate;
		this.#ext4 = {vda, vdb};
	}

	/** `rate` is of writes in a second. */
	static async start(folder: string, name: string, rate: number): Promise<WritingVm> {
		const ext4 = (disk: string, label: string): Promise<Image> =>
			ext4Image(join(folder, `${disk}.qcow2`), 'qcow2', EXT4_BYTES, 1 << 20, label);
		const vm = new WritingVm(folder, name, rate, await ext4('vda', 'a'), await ext4('vdb', 'b'));
		for (const disk of WRITTEN) await blankImage(vm.#image(disk.name), 'qcow2', disk.bytes);
		await vm.#boot(SIZES.map(blankState));
		return vm;
	}

	get guest(): Guest {
		if (!this.#guest) throw new Error('the VM does not run');
		return this.#guest;
	}

	/** Whether it is this one that runs. */
	runs(guest: Guest): boolean {
		return this.#guest === guest;
	}

	/** All that its guests have done so far. */
	async written(): Promise<{readonly writes: number; readonly seconds: number; readonly errors: number}> {
		const {writes, seconds, errors} = this.#done;
		if (!this.#guest) return this.#done;
		const now = await this.#counted();
		return {
			writes: writes + now.writes - this.#history.first,
			seconds: seconds + (performance.now() - this.#startedAt) / 1000,
			errors: errors + now.errors,
		};
	}

	/** The least number of the write that the guest is at. It is on the console once a second. */
	async leastWrites(): Promise<number> {
		return (await this.#counted()).writes;
	}

	/** Which writes leave the disks as they are found: of the QEMU that runs, or was the last to run. */
	async explain(found: readonly DiskState[]): Promise<Explanation> {
		return this.#history.explain(found, await this.#dropped());
	}

	async end(how: Ending): Promise<void> {
		const {guest} = this;
		await guest.end(how === 'kill' ? 'SIGKILL' : 'SIGTERM');
		this.#console = await readFile(guest.serialPath, 'utf8');
		Object.assign(this.#done, await this.written());
		this.#guest = undefined;
		await guest.kill();
	}

	/** After {@link end}. What the disks hold then is what the next writes are counted from. */
	async startAgain(how: Ending): Promise<void> {
		const base: DiskState[] = [];
		for (const [index, {name}] of WRITTEN.entries()) {
			const raw = join(this.#folder, `${name}.raw`);
			await rawCopy({path: this.#image(name), format: 'qcow2'}, raw);
			base.push(await readState(raw, index));
			await rm(raw);
		}
		if (base.some(state => state.includes(UNKNOWN))) throw new Error('the disks are not what the guest wrote');
		// QEMU has written down all then, so that this has to be a state like any other.
		if (how === 'quit' && (await this.explain(base)).wrong.length > 0) {
			throw new Error('no number of writes explains the disks');
		}
		await this.#boot(base);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#guest?.kill();
	}

	#image(disk: string): string {
		return join(this.#folder, `${disk}.qcow2`);
	}

	/** Of the guest that runs, or was the last to run. */
	async #said(): Promise<string> {
		return this.#guest ? readFile(this.#guest.serialPath, 'utf8') : this.#console;
	}

	async #dropped(): Promise<ReadonlySet<number>> {
		return new Set(
			Array.from((await this.#said()).matchAll(/quiesce-guest: dropped (\d+)\r?\n/g), ([, k]) => Number(k)),
		);
	}

	async #counted(): Promise<{readonly writes: number; readonly errors: number}> {
		const last = rawStatsIn(await this.#said()).at(-1);
		return {writes: last?.count ?? this.#history.first, errors: last?.errors ?? 0};
	}

	async #boot(base: readonly DiskState[]): Promise<void> {
		const guest = await startGuest({
			name: this.name,
			images: this.#ext4,
			extraArgs: WRITTEN.flatMap(({name}, index) => diskArguments(name, this.#image(name), index)),
		});
		this.#guest = guest;
		await prefer(guest.pid);
		const first = this.#history.begin(base);
		const devices = WRITTEN_DISKS.map(name => `/dev/${name}`).join(' ');
		await guest.read(`writer mixed /run/raw.state ${this.#rate} ${first} ${devices} >/dev/console 2>&1`);
		this.#startedAt = performance.now();
	}
}

/** The guest writes as much on a busy host. New threads are as those that start them. */
async function prefer(pid: number): Promise<void> {
	for (const thread of await readdir(`/proc/${pid}/task`)) setPriority(Number(thread), PREFERENCE);
}

/** As the guest's own are, but for discards, which reach the image. */
function diskArguments(disk: string, image: string, index: number): string[] {
	const threads = Number(process.env['QUIESCE_TEST_IOTHREADS'] ?? 0);
	const thread = threads > 0 ? `,iothread=io${index % threads}` : '';
	const file = {'driver': 'file', 'filename': image, 'node-name': `file-${disk}`, 'discard': 'unmap'};
	const node = {'driver': 'qcow2', 'file': `file-${disk}`, 'node-name': `disk-${disk}`, 'discard': 'unmap'};
	return [
		...['-blockdev', JSON.stringify(file), '-blockdev', JSON.stringify(node)],
		...['-device', `virtio-blk-pci,id=${disk},serial=${disk},drive=disk-${disk}${thread}`],
	];
}
