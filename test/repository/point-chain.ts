import {execFileSync} from 'node:child_process';
import {createHash, randomBytes, randomInt} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {CLUSTER_BYTES, type HashRecord} from '../../src/images/hash-records.ts';
import {writeHashes} from '../../src/repository/content-hashes.ts';
import {backingFileName} from '../../src/repository/layout.ts';
import {createPartialPoint, type DiskDraft} from '../../src/repository/partial-point.ts';
import type {Point} from '../../src/repository/points.ts';
import {openRepository, type Repository} from '../../src/repository/repository.ts';
import {draft, full, machine, onTopOf, qemuImg, temporaryFolder, toStored} from './fixture.ts';

const HOUR = 3_600_000;

/** What each disk of a point lies on: the image of another point, or nothing. */
export type Beneath = Readonly<Record<string, Point | null>>;

/** Points that lie on one another, made without QEMU, each an hour after the one before. */
export class PointChain {
	readonly repository: Repository;
	readonly vm: string;
	readonly sizes: Readonly<Record<string, number>>;
	/** What each disk held, by the point's id and the disk's name. */
	readonly held = new Map<string, ReadonlyMap<string, Buffer>>();
	#at = Date.parse('2026-11-21T08:00:00Z');

	constructor(
		repository: Repository,
		{
			vm = 'web',
			sizes = {vda: 2 * 1024 * 1024, vdb: 540_672},
		}: {vm?: string; sizes?: Readonly<Record<string, number>>} = {},
	) {
		this.repository = repository;
		this.vm = vm;
		this.sizes = sizes;
	}

	/** The same in a repository of its own. */
	async copy(): Promise<PointChain> {
		const folder = path.join(temporaryFolder(), 'repository');
		fs.cpSync(this.repository.path, folder, {recursive: true});
		const copy = new PointChain(await openRepository(folder), this);
		for (const [id, held] of this.held) copy.held.set(id, held);
		return copy;
	}

	/** All disks on the same point, or all of them full. */
	on(point: Point | null, kind: 'incremental' | 'differential' = 'incremental'): Promise<Point> {
		return this.add(Object.fromEntries(Object.keys(this.sizes).map(name => [name, point])), kind);
	}

	async add(beneath: Beneath, kind: 'incremental' | 'differential' = 'incremental'): Promise<Point> {
		const now = new Date((this.#at += HOUR));
		const partial = await createPartialPoint(this.repository, this.vm, now, 'r1');
		const held = new Map<string, Buffer>();
		const disks: DiskDraft[] = [];
		for (const [name, base] of Object.entries(beneath)) {
			const [sizeBytes, file, hashes] = [this.sizes[name]!, `${name}.qcow2`, `${name}.hashes`];
			const content = Buffer.from(base ? this.held.get(base.id)!.get(name)! : Buffer.alloc(sizeBytes));
			const written = base
				? overlay(partial.path(file), backingFileName(base.id, file), content)
				: whole(partial.path(file), content);
			await writeHashes(partial.path(hashes), recordsOf(content, written));
			held.set(name, content);
			const stored = base ? {...onTopOf(base.id), kind, chain: chainOf(base, name)} : full;
			disks.push({...stored, name, file, hashes, sizeBytes, format: 'raw', deviceType: null});
		}
		const point = await partial.finish({...draft, cutAt: now.toISOString(), disks}, machine);
		this.held.set(point.id, held);
		return point;
	}
}

function chainOf({manifest}: Point, name: string): string {
	return manifest.disks.find(disk => disk.name === name)!.chain;
}

/** Half of it data, as compressed clusters. Returns the clusters that are stored. */
function whole(image: string, content: Buffer): number[] {
	const clusters = Math.ceil(content.length / CLUSTER_BYTES);
	const stored = [...Array(clusters).keys()].filter(cluster => cluster % 2 === 0 || cluster === clusters - 1);
	for (const cluster of stored) {
		const at = cluster * CLUSTER_BYTES;
		randomBytes(2048).copy(content, at);
		content.fill(cluster + 1, at + 2048, Math.min(content.length, at + CLUSTER_BYTES));
	}
	const raw = path.join(temporaryFolder(), 'content.raw');
	fs.writeFileSync(raw, content);
	toStored(raw, image);
	return stored;
}

/** Some clusters written, some of them compressed, some with zeroes. */
function overlay(image: string, backingFile: string, content: Buffer): number[] {
	const size = String(content.length);
	qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', backingFile, '-F', 'qcow2', image, size);
	const clusters = Math.ceil(content.length / CLUSTER_BYTES);
	const stored = new Set([clusters - 1]);
	while (stored.size < Math.min(6, clusters - 1)) stored.add(randomInt(clusters));
	const commands = [...stored].map((cluster, nth) => {
		const at = cluster * CLUSTER_BYTES;
		const length = Math.min(CLUSTER_BYTES, content.length - at);
		const pattern = nth % 3 === 1 ? 0 : randomInt(1, 256);
		content.fill(pattern, at, at + length);
		if (pattern === 0) return `write -z ${at} ${length}`;
		return `write ${nth % 3 === 2 && length === CLUSTER_BYTES ? '-c ' : ''}-P ${pattern} ${at} ${length}`;
	});
	execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap(command => ['-c', command]), image]);
	return [...stored].sort((one, other) => one - other);
}

function recordsOf(content: Buffer, clusters: readonly number[]): HashRecord[] {
	return clusters.map(firstCluster => {
		const cluster = content.subarray(firstCluster * CLUSTER_BYTES, (firstCluster + 1) * CLUSTER_BYTES);
		const isZero = cluster.every(byte => byte === 0);
		return {firstCluster, clusters: 1, content: isZero ? 'zero' : createHash('sha256').update(cluster).digest()};
	});
}
