import {execFileSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {onTestFinished} from 'vitest';
import type {Machine} from '../../src/repository/machine.ts';
import {createPartialPoint, type DiskDraft, type PointDraft} from '../../src/repository/partial-point.ts';
import type {Point} from '../../src/repository/points.ts';
import {openOrCreateRepository, type Repository} from '../../src/repository/repository.ts';

export const machine: Machine = {
	format: 1,
	name: 'web',
	uuid: null,
	machineType: 'pc-q35-7.2',
	qemuVersion: '7.2.22',
	binary: '/usr/bin/qemu-system-x86_64',
	commandLine: ['qemu-system-x86_64', '-M', 'q35'],
	disks: [{name: 'vda', filename: '/vm/a.raw', format: 'raw', nodeNames: ['a']}],
	capturedAt: '2026-11-21T08:00:00.000Z',
};

export const draft: PointDraft = {
	uuid: null,
	cutAt: '2026-11-21T08:00:00.000Z',
	consistency: 'quiesced',
	freeze: {fileSystems: 2, freezeSeconds: 0.01, heldSeconds: 0.002, thawSeconds: 0.003},
	standstill: null,
	group: null,
	qemu: {version: '7.2.22', package: 'Debian', process: null},
	tool: {version: '0.1.0'},
	method: 'push',
	sink: 'daemon',
	compression: 'zstd',
	disks: [],
	skipped: [],
	warnings: [],
};

/** What a disk has that is a full of its own. */
export const full = {
	kind: 'full',
	reason: null,
	parent: null,
	chain: null,
	layout: 'alone',
	backing: null,
	hashes: null,
	bitmap: null,
	source: null,
} as const satisfies Partial<DiskDraft>;

/** As {@link full}, on the image of the point `parent`. */
export function onTopOf(parent: string): Omit<DiskDraft, 'name' | 'file' | 'sizeBytes' | 'format' | 'deviceType'> {
	return {...full, kind: 'incremental', parent, chain: parent, layout: 'chain', backing: parent};
}

export const eight = new Date('2026-11-21T08:00:00.000Z');

/** An empty folder, removed after the test. */
export function temporaryFolder(): string {
	const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'quiesce-test-'));
	onTestFinished(() => {
		fs.rmSync(folder, {recursive: true, force: true});
	});
	return folder;
}

/** A file system of its own, unmounted after the test. */
export function temporaryMount(megabytes: number): string {
	const folder = temporaryFolder();
	execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', folder]);
	onTestFinished(() => {
		execFileSync('umount', ['-l', folder]);
	});
	return folder;
}

/** A file system whose files can share their data, in a file that is mounted; unmounted after the test. */
export function cloningMount(kind: 'xfs' | 'btrfs', megabytes = 400): string {
	const [folder, image] = [temporaryFolder(), path.join(temporaryFolder(), 'file-system')];
	fs.writeFileSync(image, '');
	fs.truncateSync(image, megabytes * 1024 * 1024);
	execFileSync(`mkfs.${kind}`, ['-q', image]);
	execFileSync('mount', ['-o', 'loop', image, folder]);
	onTestFinished(() => {
		execFileSync('umount', ['-l', folder]);
	});
	const repository = path.join(folder, 'repository');
	fs.mkdirSync(repository);
	return repository;
}

export function emptyRepository(): Promise<Repository> {
	return openOrCreateRepository(temporaryFolder());
}

/** What a guest may have on a disk: some data, a hole, and data at the very end. */
export function writeSource(file: string, sizeBytes: number): void {
	const data = randomBytes(Math.min(Math.floor(sizeBytes / 2), 40 * 1024 * 1024));
	fs.writeFileSync(file, data, {flag: 'wx'});
	fs.truncateSync(file, sizeBytes);
	const handle = fs.openSync(file, 'r+');
	fs.writeSync(handle, 'the end.', sizeBytes - 8);
	fs.closeSync(handle);
}

export function qemuImg(...args: string[]): string {
	return execFileSync('qemu-img', args, {encoding: 'utf8'});
}

export function toStored(source: string, image: string): void {
	qemuImg('convert', '-f', 'raw', '-O', 'qcow2', '-c', '-o', 'compression_type=zstd', source, image);
}

export interface Made {
	readonly point: Point;
	/** What the disk held, by its name: a raw file. */
	readonly sources: ReadonlyMap<string, string>;
}

/** A full point of disks `vda`, `vdb`… with real images. */
export async function makePoint(
	repository: Repository,
	sizes: readonly number[] = [4 * 1024 * 1024, 540_672],
	{vm = 'web', now = eight, format = 'raw'}: {vm?: string; now?: Date; format?: string} = {},
): Promise<Made> {
	const folder = temporaryFolder();
	const partial = await createPartialPoint(repository, vm, now, 'r1');
	const disks = sizes.map((sizeBytes, index) => {
		const name = `vd${'abcdef'[index] ?? ''}`;
		const source = path.join(folder, `${name}.raw`);
		writeSource(source, sizeBytes);
		toStored(source, partial.path(`${name}.qcow2`));
		const stored = {name, file: `${name}.qcow2`, sizeBytes, format, deviceType: 'virtio-blk-pci', ...full};
		return {name, source, stored};
	});
	const point = await partial.finish({...draft, disks: disks.map(({stored}) => stored)}, machine);
	return {point, sources: new Map(disks.map(({name, source}) => [name, source]))};
}

/** Makes the documents of a point agree with its files, as somebody would who changes it with intent. */
export function forgeSums(folder: string): void {
	const manifestFile = path.join(folder, 'point.json');
	const sum = (file: string) => execFileSync('sha256sum', [file], {cwd: folder, encoding: 'utf8'}).slice(0, 64);
	const manifest = JSON.parse(fs.readFileSync(manifestFile, 'utf8')) as Record<string, unknown> & {
		disks: {file: string; sha256: string; storedBytes: number}[];
	};
	for (const disk of manifest.disks) {
		disk.sha256 = sum(disk.file);
		disk.storedBytes = fs.statSync(path.join(folder, disk.file)).size;
	}
	fs.writeFileSync(manifestFile, JSON.stringify(manifest));
	const files = fs.readdirSync(folder).filter(name => name !== 'SHA256SUMS');
	fs.writeFileSync(path.join(folder, 'SHA256SUMS'), files.map(file => `${sum(file)}  ${file}\n`).join(''));
}

/** Flips one bit. */
export function corrupt(file: string, offset: number): void {
	const handle = fs.openSync(file, 'r+');
	const byte = Buffer.alloc(1);
	fs.readSync(handle, byte, 0, 1, offset);
	byte.writeUInt8(byte.readUInt8(0) ^ 1);
	fs.writeSync(handle, byte, 0, 1, offset);
	fs.closeSync(handle);
}
