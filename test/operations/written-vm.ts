import {randomInt, randomUUID} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {expect} from 'vitest';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';
import type {StoredDisk} from '../../src/repository/manifest.ts';
import {type BareDisk, type BareVm, executeAny, MIB, qemuIo, startVm} from '../jobs/bare-vm.ts';
import {type Finished, finishedOf, requestFor, requestOff, take} from '../jobs/backups.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';

const CLUSTER = 64 * 1024;

/** A VM without a guest whose every write is known, so that each point can be compared with what the disks held. */
export class WrittenVm {
	/** Of the images. */
	readonly folder: string;
	readonly uuid = randomUUID();
	readonly disks: readonly BareDisk[];
	readonly contents = new Map<string, Buffer>();
	readonly name: string;
	#vm: BareVm | undefined;

	constructor(disks: readonly BareDisk[] = TWO_DISKS, folder = temporaryFolder(), name = 'web') {
		this.name = name;
		this.folder = folder;
		this.disks = disks;
		for (const {name, sizeBytes, fill = 0} of disks) this.contents.set(name, Buffer.alloc(sizeBytes, fill));
	}

	get vm(): BareVm {
		if (!this.#vm) throw new Error('the VM does not run');
		return this.#vm;
	}

	async start(disks = this.disks, args: readonly string[] = []): Promise<this> {
		this.#vm = await startVm(disks, {name: this.name, folder: this.folder, uuid: this.uuid, args});
		return this;
	}

	/** Of a disk, also while the VM is off. */
	image(disk: string): string {
		const {format = 'raw', image} = this.disks.find(({name}) => name === disk)!;
		return image ?? path.join(this.folder, `${disk}.${format}`);
	}

	/** As an operator shuts a VM down: what QEMU has in memory is stored. */
	async quit(): Promise<void> {
		const {vm} = this;
		await vm.qmp.execute('quit').catch(() => undefined);
		await vm.ended;
		this.#vm = undefined;
	}

	async kill(): Promise<void> {
		await this.vm.kill();
		this.#vm = undefined;
	}

	async write(disk: string, offset: number, bytes: number, pattern = randomInt(1, 256)): Promise<void> {
		await this.vm.write(disk, pattern, offset, bytes);
		this.contents.get(disk)!.fill(pattern, offset, offset + bytes);
	}

	/** Some clusters here and there, some of them with zeroes, some of them only in part. */
	async writeAround(disk: string, writes = 6): Promise<void> {
		const {length} = this.contents.get(disk)!;
		for (let nth = 0; nth < writes; nth++) {
			const bytes = [512, CLUSTER, 3 * CLUSTER, 4096][nth % 4]!;
			const offset = randomInt(0, Math.floor((length - bytes) / 512)) * 512;
			await this.write(disk, offset, bytes, nth === 2 ? 0 : randomInt(1, 256));
		}
	}

	async discard(disk: string, offset: number, bytes: number): Promise<void> {
		await qemuIo(this.vm.qmp, `/machine/peripheral/${disk}/virtio-backend`, `discard ${offset} ${bytes}`);
		this.contents.get(disk)!.fill(0, offset, offset + bytes);
	}

	/** Takes a point, and writes while it is copied. Returns it with what the disks held at the cut. */
	async back(repository: string, rest: Partial<BackupRequest> = {}): Promise<Taken> {
		const held = new Map([...this.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
		let isCut = false;
		const messages = await take(requestFor(this.vm, repository, rest), async ({kind}) => {
			if (kind !== 'cut' || isCut) return;
			isCut = true;
			for (const {name} of this.disks) await this.writeAround(name, 3);
		});
		const warnings = messages.flatMap(message => (message.kind === 'warning' ? [message.text] : []));
		return {finished: finishedOf(messages), held, warnings};
	}

	/** The same while it is off, from its images, in which nobody writes. */
	async backOff(repository: string, rest: Parameters<typeof requestOff>[1] = {}): Promise<Taken> {
		const held = new Map([...this.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
		const messages = await take(requestOff(repository, {name: this.name, ...rest}));
		const warnings = messages.flatMap(message => (message.kind === 'warning' ? [message.text] : []));
		return {finished: finishedOf(messages), held, warnings};
	}

	/** The named bitmaps on the node of a disk. */
	async bitmaps(disk: string): Promise<readonly BitmapSeen[]> {
		const nodes = await this.vm.qmp.execute('query-named-block-nodes', {flat: true});
		const found = nodes.find(node => node['node-name'] === `${disk}-node`)?.['dirty-bitmaps'] ?? [];
		return found.flatMap(({name, persistent, recording}) =>
			name === undefined ? [] : [{name, persistent, recording}],
		);
	}

	execute(command: string, args: object): Promise<unknown> {
		return executeAny(this.vm.qmp, command, args);
	}
}

interface BitmapSeen {
	readonly name: string;
	readonly persistent: boolean;
	readonly recording: boolean;
}

export interface Taken {
	readonly finished: Finished;
	readonly held: ReadonlyMap<string, Buffer>;
	readonly warnings: readonly string[];
}

const TWO_DISKS: readonly BareDisk[] = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'},
	{name: 'vdb', sizeBytes: 4 * MIB + 512, fill: 0xbb, format: 'qcow2'},
];

/** By plain `qemu-img`, from the point's folder alone. */
export function expectHeld({finished: {folder, manifest}, held}: Taken): void {
	for (const {name, file} of manifest.disks) expect(differences(path.join(folder, file), held.get(name)!)).toEqual([]);
}

export function differences(image: string, expected: Buffer): number[] {
	const raw = path.join(temporaryFolder(), 'restored.raw');
	qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
	const found = fs.readFileSync(raw);
	fs.rmSync(raw);
	if (found.length !== expected.length) return [-1];
	const wrong: number[] = [];
	for (let at = 0; at < found.length; at += CLUSTER) {
		if (!found.subarray(at, at + CLUSTER).equals(expected.subarray(at, at + CLUSTER))) wrong.push(at / CLUSTER);
	}
	return wrong;
}

/** What a point says of a disk. */
export function storedAs({finished: {manifest}}: Taken, disk: string): Pick<StoredDisk, 'kind' | 'reason' | 'parent'> {
	const {kind, reason, parent} = manifest.disks.find(({name}) => name === disk)!;
	return {kind, reason, parent};
}
