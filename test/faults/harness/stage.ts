import {mkdir, mkdtemp, readFile, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {blankImage, ext4Image, type Image, type ImageFormat} from '../../guest/disks.ts';
import {type DiskName, type Guest, type GuestOptions, startGuest} from '../../guest/guest.ts';
import {explainWrites} from '../../guest/oracle.ts';
import {type FileSystem, mountNew} from './file-systems.ts';
import {buildNative, type Native} from './native.ts';
import {PauseWatch} from './pauses.ts';
import {Tool, type ToolEnded, type ToolOptions} from './tool.ts';

const EXT4_BYTES = 24 << 20;
const RAW_BYTES = 4 << 20;
/** Enough that every copy is overtaken by writes, and little enough for the emulation. */
const WRITES_A_SECOND = 100;
const WATCH_SOCKET = 'watch.sock';

/** A kind of VM: its options, and what is done to it once it runs. */
export interface VmKind {
	readonly name: string;
	readonly guest?: GuestOptions;
	/** Of the disks with file systems; default raw. The others are raw: what is written to them is in their files at once. */
	readonly format?: ImageFormat;
	readonly furnish?: (guest: Guest) => Promise<void>;
}

/** A guest with its disks, and folders for all that the program reads and writes. */
export class Stage implements AsyncDisposable {
	/** Points that trials do not touch. */
	readonly repository: string;
	/** Local and fast, for the copies of what the guest overwrites. */
	readonly scratch: string;
	readonly runtimeDir: string;
	readonly folder: string;
	readonly native: Native;
	/** Where the operation writes; a fault may have put a file system of its own there. */
	target: string;
	readonly #vm: VmKind;
	readonly #name: string;
	#pauses: PauseWatch | undefined;
	#images: Record<DiskName, Image>;
	#guest: Guest;
	#made = 0;
	#unmount: (() => Promise<void>) | undefined;

	private constructor(
		folder: string,
		name: string,
		vm: VmKind,
		native: Native,
		images: Record<DiskName, Image>,
		guest: Guest,
	) {
		this.folder = folder;
		this.repository = join(folder, 'repository');
		this.target = join(folder, 'target');
		this.scratch = join(folder, 'scratch');
		this.runtimeDir = join(folder, 'runtime');
		this.native = native;
		this.#vm = vm;
		this.#name = name;
		this.#images = images;
		this.#guest = guest;
	}

	static async set(vm: VmKind, fileSystem?: FileSystem): Promise<Stage> {
		const folder = await mkdtemp(join(tmpdir(), 'quiesce-faults-'));
		// VMs of one name on one host exclude each other.
		const name = `${vm.name.replaceAll(/\W+/g, '-')}-${folder.slice(-6)}`;
		const native = await buildNative(folder);
		const images = await newImages(folder, vm);
		const stage = new Stage(folder, name, vm, native, images, await boot(vm, name, images, 0));
		await stage.#watch();
		for (const made of [stage.repository, stage.target, stage.scratch]) await mkdir(made, {mode: 0o700});
		if (fileSystem) stage.#unmount = await stage.putTargetOn(fileSystem);
		return stage;
	}

	get guest(): Guest {
		return this.#guest;
	}

	get sockets(): string[] {
		return ['--qmp', this.#guest.qmpPath, '--agent', this.#guest.agentPath];
	}

	/** A new path. */
	new(stem: string): string {
		return join(this.folder, `${stem}-${++this.#made}`);
	}

	start(args: readonly string[], options: Partial<ToolOptions> = {}): Tool {
		return new Tool(args, {...options, env: {QUIESCE_RUNTIME_DIR: this.runtimeDir, ...options.env}});
	}

	run(args: readonly string[], options?: Partial<ToolOptions>): Promise<ToolEnded> {
		return this.start(args, options).ended;
	}

	/** As {@link run}, where anything but success is an error. */
	async succeed(args: readonly string[]): Promise<ToolEnded> {
		const ended = await this.run(args);
		if (ended.code === 0) return ended;
		throw new Error(`${args[0] ?? ''}: ${outcomeOf(ended)}`);
	}

	/** Gives the target a file system of its own, in a file. Returns what puts it back. */
	async putTargetOn(fileSystem: FileSystem): Promise<() => Promise<void>> {
		const [folder, before] = [this.new('target'), this.target];
		const unmount = await mountNew(fileSystem, this.new('target-image'), folder);
		this.target = join(folder, 'data');
		await mkdir(this.target, {mode: 0o700});
		return async () => {
			this.target = before;
			await unmount();
		};
	}

	/** Another QEMU on the same disks, as after a power cut. The writer goes on where it was. */
	async restart(): Promise<void> {
		await this.#guest.kill();
		const raw = await explainWrites([this.#images.vdc.path, this.#images.vdd.path]);
		if (!raw.sound) throw new Error('the disks of the VM are not those that the guest wrote');
		this.#guest = await boot(this.#vm, this.#name, this.#images, raw.writes);
		await this.#watch();
	}

	/** A new guest with new disks, where a trial has spoiled the one there was. */
	async renew(): Promise<void> {
		await this.#guest.kill();
		for (const folder of [this.runtimeDir, this.scratch, this.target]) await rm(folder, {recursive: true, force: true});
		for (const folder of [this.scratch, this.target]) await mkdir(folder, {mode: 0o700});
		this.#images = await newImages(this.folder, this.#vm);
		this.#guest = await boot(this.#vm, this.#name, this.#images, 0);
		await this.#watch();
	}

	/** The worst write since the console was `from` characters long, in milliseconds. */
	async worstSince(from: number): Promise<number> {
		const text = (await readFile(this.#guest.serialPath, 'utf8')).slice(from);
		const worst = Array.from(text.matchAll(/raw count=\d+ worst-ms=([\d.]+)/g), ([, ms]) => Number(ms));
		return Math.max(...worst, (await this.#guest.rawStats()).worstMs);
	}

	/** The longest time that the VM was paused, since that moment and in this QEMU. */
	longestPauseSince(since: number): number {
		return this.#pauses?.longestSince(since) ?? 0;
	}

	async #watch(): Promise<void> {
		await this.#pauses?.close();
		this.#pauses = await PauseWatch.open(join(this.folder, WATCH_SOCKET));
	}

	async consoleLength(): Promise<number> {
		return (await readFile(this.#guest.serialPath, 'utf8')).length;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#pauses?.close();
		await this.#guest.kill();
		await this.#unmount?.();
		await rm(this.folder, {recursive: true, force: true});
	}
}

/** How a run ended, with what it said last. */
export function outcomeOf({code, signal, stdout, stderr, timedOut}: ToolEnded): string {
	const how = timedOut ? 'it hung and was killed' : signal === null ? `exit code ${code ?? 'none'}` : signal;
	return [how, ...`${stderr}\n${stdout}`.trim().split('\n').slice(-6)].join('\n    ');
}

async function newImages(folder: string, {format = 'raw'}: VmKind): Promise<Record<DiskName, Image>> {
	const at = (name: string, extension: ImageFormat): string => join(folder, `${name}.${extension}`);
	return {
		vda: await ext4Image(at('vda', format), format, EXT4_BYTES, 2 << 20, 'a'),
		vdb: await ext4Image(at('vdb', format), format, EXT4_BYTES, 2 << 20, 'b'),
		vdc: await blankImage(at('vdc', 'raw'), 'raw', RAW_BYTES),
		vdd: await blankImage(at('vdd', 'raw'), 'raw', RAW_BYTES),
	};
}

async function boot(vm: VmKind, name: string, images: Record<DiskName, Image>, rawFrom: number): Promise<Guest> {
	const monitor = `unix:${join(dirname(images.vda.path), WATCH_SOCKET)},server=on,wait=off`;
	const guest = await startGuest({
		rawRate: WRITES_A_SECOND,
		...vm.guest,
		...{name, images, raw: 'writing', rawFrom},
		extraArgs: [...(vm.guest?.extraArgs ?? []), '-qmp', monitor],
	});
	await vm.furnish?.(guest);
	return guest;
}
