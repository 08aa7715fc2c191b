import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {verify} from '../../src/operations/verify.ts';
import {ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {expectNothingLeft} from '../jobs/backups.ts';
import {cloningMount, corrupt, forgeSums, temporaryFolder, temporaryMount} from '../repository/fixture.ts';
import {expectHeld, storedAs, type Taken, WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

test.each([
	{method: 'fleece', sink: 'daemon', compression: 'zstd'},
	{method: 'fleece', sink: 'inline', compression: 'none'},
	{method: 'push', sink: 'daemon', compression: 'none'},
	{method: 'push', sink: 'inline', compression: 'zstd'},
	{method: 'pull', sink: 'daemon', compression: 'zstd'},
	{method: 'pull', sink: 'daemon', compression: 'none'},
] as const)('a chain of points gives back what the disks held at each ($method, $sink, $compression)', async how => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const points: Taken[] = [];
	for (let nth = 0; nth < 4; nth++) {
		for (const {name} of written.disks) await written.writeAround(name);
		await written.discard('vda', nth * 1024 * 1024, 512 * 1024);
		points.push(await written.back(repository, how));
	}
	for (const point of points) expectHeld(point);
	expect(points.map(point => storedAs(point, 'vda').kind)).toEqual([
		'full',
		'incremental',
		'incremental',
		'incremental',
	]);
	expect(points.slice(1).map(point => storedAs(point, 'vdb').parent)).toEqual(
		points.slice(0, -1).map(({finished}) => finished.manifest.id),
	);
	await expectNothingLeft(written.vm, repository);
	expect(await written.bitmaps('vda')).toHaveLength(2);
	await expectSound(repository);
});

test.each(['xfs', 'btrfs'] as const)(
	'on %s each point is a clone that stands alone and costs what changed',
	async kind => {
		const written = await new WrittenVm().start();
		const repository = cloningMount(kind);
		const points: Taken[] = [];
		for (const method of ['fleece', 'push', 'pull', 'push'] as const) {
			for (const {name} of written.disks) await written.writeAround(name);
			await written.discard('vda', points.length * 1024 * 1024, 512 * 1024);
			points.push(await written.back(repository, {method, compression: 'zstd'}));
		}
		for (const point of points) expectHeld(point);
		await expectSound(repository);
		const [first, ...clones] = points.map(({finished: {manifest}}) => manifest.disks[0]!);
		expect(first).toMatchObject({layout: 'alone', kind: 'full'});
		for (const clone of clones) {
			expect(clone).toMatchObject({layout: 'clone', kind: 'incremental', backing: null, sha256: null});
			expect(clone.addedBytes).toBeLessThan(4 * 1024 * 1024);
		}
		// Dropped with `rm`.
		fs.rmSync(points[0]!.finished.folder, {recursive: true});
		fs.rmSync(points[2]!.finished.folder, {recursive: true});
		for (const point of [points[1]!, points[3]!]) expectHeld(point);
		await expectSound(repository);
		await expectNothingLeft(written.vm, repository);
		const chained = await written.back(repository, {layout: 'chain'});
		const cloned = await written.back(repository);
		for (const point of [chained, cloned]) expectHeld(point);
		expect(chained.finished.manifest.disks[0]).toMatchObject({
			layout: 'chain',
			backing: points[3]!.finished.manifest.id,
		});
		expect(cloned.finished.manifest.disks[0]).toMatchObject({
			layout: 'clone',
			backing: points[3]!.finished.manifest.id,
		});
		await expectSound(repository);
		const {folder, manifest} = cloned.finished;
		const image = path.join(folder, manifest.disks[0]!.file);
		corrupt(image, lastDataIn(image) + 100);
		expect(await problemsIn(repository)).toEqual([
			expect.stringMatching(/^vda\.qcow2: 65536 bytes are not what the guest had: 65536 at \d+/),
		]);
	},
);

/** Where in the file the last cluster of the disk begins that holds data, not compressed. */
function lastDataIn(image: string): number {
	const map = execFileSync('qemu-img', ['map', '--output', 'json', '-f', 'qcow2', image], {encoding: 'utf8'});
	const extents = JSON.parse(map) as {readonly data: boolean; readonly zero: boolean; readonly offset?: number}[];
	const last = extents.findLast(({data, zero, offset}) => data && !zero && offset !== undefined);
	if (last?.offset === undefined) throw new Error(`${image} holds no data`);
	return last.offset;
}

test('a clone is refused where the file system cannot make one, or nobody could tell what was written', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryMount(100);
	await written.back(repository);
	await expect(written.back(repository, {layout: 'clone'})).rejects.toThrow(
		/^points cannot be clones here: the file system of the repository cannot share/,
	);
	await expect(written.back(repository, {layout: 'clone', sink: 'inline'})).rejects.toThrow(/nobody can tell what was/);
});

test('what is rotten in an image is found by its content, though somebody made the checksums agree', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	await written.back(repository);
	await written.writeAround('vda');
	const {finished} = await written.back(repository);
	const image = path.join(finished.folder, 'vda.qcow2');
	execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x5a 3M 512', image]);
	forgeSums(finished.folder);
	expect(await problemsIn(repository, 'files')).toEqual([]);
	expect(await problemsIn(repository, 'content')).toEqual([
		'vda.qcow2: 65536 bytes are not what the guest had: 65536 at 3145728',
	]);
});

/** By checksums, structure and content. */
async function expectSound(repository: string): Promise<void> {
	expect(await problemsIn(repository, 'content')).toEqual([]);
}

async function problemsIn(repository: string, depth: 'files' | 'content' = 'files'): Promise<string[]> {
	const messages = await lastValueFrom(verify({repository, depth}).pipe(toArray()));
	return messages.flatMap(message =>
		message.kind === 'verified' ? message.problems.map(({file, problem}) => `${file}: ${problem}`) : [],
	);
}
