import {randomUUID} from 'node:crypto';
import {mkdir, mkdtemp, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {SECTOR_BYTES} from '../endurance/writes.ts';
import type {Execute} from '../faults/harness/qemu-state.ts';
import {blankImage, type Image} from '../guest/disks.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {launchQemu, type LaunchedQemu} from '../support/launch-qemu.ts';

export interface HistoryDisk {
	readonly name: string;
	readonly bytes: number;
	readonly format: Image['format'];
}

/** The second does not end with a cluster. */
const DISKS: readonly HistoryDisk[] = [
	{name: 'vda', bytes: 16 << 20, format: 'qcow2'},
	{name: 'vdb', bytes: (8 << 20) + SECTOR_BYTES, format: 'qcow2'},
	{name: 'vdc', bytes: 6 << 20, format: 'raw'},
];

interface ImageInfo {
	readonly 'filename': string;
	readonly 'backing-image'?: ImageInfo;
}

/** A VM whose processors never run; what its disks lie on changes, and it is started again on that. */
export class HistoryVm implements AsyncDisposable {
	readonly name: string;
	/** Of the images, and of nothing else but what tells of snapshots. */
	readonly images: string;
	/** For all else. */
	readonly folder: string;
	readonly disks: readonly HistoryDisk[];
	readonly #uuid = randomUUID();
	#qemu: LaunchedQemu | undefined;
	#qmp: QmpConnection | undefined;

	private constructor(folder: string, name: string, disks: readonly HistoryDisk[]) {
		[this.folder, this.images, this.name, this.disks] = [folder, join(folder, 'images'), name, disks];
	}

	/** With two disks, or three. */
	static async start(folder: string, name: string, disks: 2 | 3): Promise<HistoryVm> {
		const vm = new HistoryVm(folder, name, DISKS.slice(0, disks));
		await mkdir(vm.images);
		for (const {name: disk, format, bytes} of vm.disks) await blankImage(vm.firstImage(disk), format, bytes);
		await vm.startAgain(new Map(vm.disks.map(disk => [disk.name, vm.firstImage(disk.name)])));
		return vm;
	}

	firstImage(disk: string): string {
		return join(this.images, `${disk}.${this.disks.find(({name}) => name === disk)?.format ?? ''}`);
	}

	image(file: string): Image {
		return {path: file, format: file.endsWith('.raw') ? 'raw' : 'qcow2'};
	}

	get qmpPath(): string {
		return this.#running.qemu.qmpPath;
	}

	async startAgain(active: ReadonlyMap<string, string>): Promise<void> {
		const dir = await mkdtemp(join(this.folder, 'qemu-'));
		const args = ['-M', 'q35', '-S', '-name', this.name, '-uuid', this.#uuid];
		for (const [index, {name}] of this.disks.entries())
			args.push(...diskArguments(name, this.image(active.get(name) ?? ''), index));
		this.#qemu = await launchQemu(dir, args);
		this.#qmp = await QmpConnection.open({unix: this.#qemu.secondQmpPath});
	}

	/** As an operator shuts it down. */
	async quit(): Promise<void> {
		const {qemu, qmp} = this.#running;
		await Promise.all([qemu.ended, qmp.execute('quit').catch(() => undefined)]);
		await qmp.close();
		this.#qemu = undefined;
		await rm(qemu.dir, {recursive: true});
	}

	readonly execute: Execute = (command, args) =>
		(this.#running.qmp.execute as Execute).call(this.#running.qmp, command, args);

	/** Does what a `qemu-io` command says, through the device. QEMU does not tell how it went: the images show it. */
	async io(disk: number, command: string): Promise<void> {
		const line = `qemu-io -d /machine/peripheral/${this.disks[disk]?.name ?? ''}/virtio-backend "${command}"`;
		const said = String(await this.execute('human-monitor-command', {'command-line': line}));
		if (said.trim() !== '') throw new Error(`${command}: ${said.trim()}`);
	}

	/** The files that each disk lies on, by QEMU's own account. */
	async chains(): Promise<ReadonlyMap<string, readonly string[]>> {
		const backends = (await this.execute('query-block')) as {qdev?: string; inserted?: {image: ImageInfo}}[];
		return new Map(
			this.disks.map(({name}) => {
				const files: string[] = [];
				let image = backends.find(({qdev}) => qdev?.includes(`/${name}/`))?.inserted?.image;
				for (; image; image = image['backing-image']) files.push(fileOf(image.filename));
				return [name, files];
			}),
		);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#qmp?.close();
		await this.#qemu?.kill();
	}

	get #running(): {readonly qemu: LaunchedQemu; readonly qmp: QmpConnection} {
		if (!this.#qemu || !this.#qmp) throw new Error('the VM does not run');
		return {qemu: this.#qemu, qmp: this.#qmp};
	}
}

function fileOf(filename: string): string {
	if (!filename.startsWith('json:')) return filename;
	return (JSON.parse(filename.slice('json:'.length)) as {file: {filename: string}}).file.filename;
}

function diskArguments(disk: string, {path, format}: Image, index: number): string[] {
	const threads = Number(process.env['QUIESCE_TEST_IOTHREADS'] ?? 0);
	const node = `node-name=disk-${disk},driver=${format},discard=unmap,file.driver=file,file.discard=unmap,file.filename=${path}`;
	const thread = threads > 0 ? `,iothread=io${index}` : '';
	return [
		...['-blockdev', node, ...(threads > 0 ? ['-object', `iothread,id=io${index}`] : [])],
		...['-device', `virtio-blk-pci,id=${disk},drive=disk-${disk}${thread}`],
	];
}
