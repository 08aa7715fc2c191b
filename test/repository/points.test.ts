import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {createPartialPoint} from '../../src/repository/partial-point.ts';
import {listPoints, listVms, readMachine, readPoint, resolvePoint} from '../../src/repository/points.ts';
import {parseManifest} from '../../src/repository/manifest.ts';
import {draft, eight, emptyRepository, machine, makePoint} from './fixture.ts';

/** A point without disks: quick to make. */
async function quickPoint(repository: Awaited<ReturnType<typeof emptyRepository>>, vm: string, now: Date) {
	return (await createPartialPoint(repository, vm, now, 'r')).finish(draft, machine);
}

test('lists VMs and finished points, oldest first', async () => {
	const repository = await emptyRepository();
	await expect(listVms(repository)).resolves.toEqual([]);
	await expect(listPoints(repository, 'web')).resolves.toEqual([]);
	for (let nth = 0; nth < 11; nth++) await quickPoint(repository, 'web', eight);
	await quickPoint(repository, 'a/b', eight);
	await createPartialPoint(repository, 'web', eight, 'r');
	fs.mkdirSync(path.join(repository.path, 'vms', 'a b'));
	fs.mkdirSync(path.join(repository.path, 'vms', 'web', 'notes'));
	fs.symlinkSync('/etc', path.join(repository.path, 'vms', 'etc'));
	fs.symlinkSync('/etc', path.join(repository.path, 'vms', 'web', '2026-11-21T09-00-00Z'));
	await expect(listVms(repository)).resolves.toEqual(['a/b', 'web']);
	const ids = (await listPoints(repository, 'web')).map(({id}) => id);
	expect(ids).toHaveLength(11);
	expect(ids.slice(0, 2)).toEqual(['2026-11-21T08-00-00Z', '2026-11-21T08-00-00Z-2']);
	expect(ids.at(-1)).toBe('2026-11-21T08-00-00Z-11');
});

test('a point is found by its id, by a unique beginning, and the newest by nothing', async () => {
	const repository = await emptyRepository();
	await quickPoint(repository, 'web', eight);
	await quickPoint(repository, 'web', eight);
	await quickPoint(repository, 'web', new Date('2026-11-22T08:00:00Z'));
	const find = async (id?: string) => (await resolvePoint(repository, 'web', id)).id;
	await expect(find()).resolves.toBe('2026-11-22T08-00-00Z');
	await expect(find('2026-11-22')).resolves.toBe('2026-11-22T08-00-00Z');
	await expect(find('2026-11-21T08-00-00Z')).resolves.toBe('2026-11-21T08-00-00Z');
	await expect(find('2026-11-21')).rejects.toMatchObject({
		code: 'USAGE',
		message: "several points of web begin with '2026-11-21': 2026-11-21T08-00-00Z-2, 2026-11-21T08-00-00Z",
	});
	await expect(find('2025')).rejects.toMatchObject({
		code: 'USAGE',
		hint: 'Its newest points: 2026-11-22T08-00-00Z, 2026-11-21T08-00-00Z-2, 2026-11-21T08-00-00Z',
	});
	await expect(find('')).rejects.toMatchObject({code: 'USAGE'});
	await expect(resolvePoint(repository, 'wbe')).rejects.toMatchObject({code: 'USAGE', hint: 'It has points of: web'});
});

test('a point keeps what it was given, and members that are not known', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	const read = await readPoint(repository, 'web', point.id);
	expect(read).toEqual(point);
	expect(read.manifest).toMatchObject({vm: 'web', run: 'r1', kind: 'full'});
	expect(read.manifest.disks.map(({name, sizeBytes, chain}) => [name, sizeBytes, chain])).toEqual([
		['vda', 4 * 1024 * 1024, point.id],
		['vdb', 540_672, point.id],
	]);
	await expect(readMachine(point)).resolves.toEqual(machine);
	const future = parseManifest(JSON.stringify({...read.manifest, protectedBy: 'me'}), 'x');
	expect(future).toMatchObject({protectedBy: 'me'});
});

test('a manifest that cannot be read makes a damaged point, not an error', async () => {
	const repository = await emptyRepository();
	const {folder, id, manifest} = await quickPoint(repository, 'web', eight);
	const file = path.join(folder, 'point.json');
	const other = '2020-01-01T00-00-00Z';
	const disk = {
		...{name: 'vda', file: 'vda.qcow2', sizeBytes: 1, storedBytes: 1, format: 'raw', deviceType: null},
		sha256: '0'.repeat(64),
	};
	const cases: [string, string][] = [
		['', 'is not JSON'],
		[JSON.stringify({...manifest, format: 2}), 'has format 2, and this program reads 1'],
		[JSON.stringify({...manifest, vm: 'db'}), 'is that of another point'],
		[JSON.stringify({...manifest, kind: 'incremental'}), 'its kind is not that of its disks'],
		[JSON.stringify({...manifest, disks: [{...disk, parent: other}]}), 'a full has no parent'],
		[JSON.stringify({...manifest, disks: [{...disk, backing: other}]}), 'an image of a chain lacks what is beneath it'],
		[JSON.stringify({...manifest, disks: [{...disk, sha256: null}]}), 'a disk has no checksum'],
		[JSON.stringify({...manifest, disks: [{...disk, hashes: disk.file}]}), 'two disks have the same file'],
		[JSON.stringify({...manifest, cutAt: 'yesterday'}), 'cutAt: not a time in UTC'],
	];
	for (const [text, reason] of cases) {
		fs.writeFileSync(file, text);
		await expect(listPoints(repository, 'web')).resolves.toEqual([
			{state: 'damaged', id, folder, isProtected: false, reason: expect.stringContaining(reason) as string},
		]);
		await expect(readPoint(repository, 'web', id)).rejects.toMatchObject({code: 'DAMAGED'});
	}
	fs.rmSync(file);
	await expect(resolvePoint(repository, 'web')).rejects.toThrow('no such file or directory');
	fs.symlinkSync('/etc/hostname', file);
	await expect(resolvePoint(repository, 'web')).rejects.toThrow('it is a symbolic link');
});

test('no file name leads out of the point', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository, [65_536]);
	const [disk] = point.manifest.disks;
	for (const file of ['../x.qcow2', '/etc/x.qcow2', '.x.qcow2', 'a/b.qcow2', 'point.json', '-x.qcow2', 'nbd:x.qcow2']) {
		const text = JSON.stringify({...point.manifest, disks: [{...disk, file}]});
		expect(() => parseManifest(text, 'x')).toThrow('disks.0.file: not the plain name of a qcow2 file');
	}
	const twice = JSON.stringify({...point.manifest, disks: [disk, {...disk, name: 'vdb', file: 'VDA.qcow2'}]});
	expect(() => parseManifest(twice, 'x')).toThrow('two disks have the same file');
});

test('a point of an earlier version is read as one whose disks are fulls that stand alone', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	const {folder, id, manifest} = point;
	const later = ['kind', 'reason', 'parent', 'chain', 'layout', 'backing', 'hashes', 'bitmap', 'source'];
	const disks = manifest.disks.map(disk =>
		Object.fromEntries(Object.entries(disk).filter(([member]) => !later.includes(member))),
	);
	fs.writeFileSync(
		path.join(folder, 'point.json'),
		JSON.stringify({...manifest, qemu: {version: '7.2.22', package: ''}, parent: null, chain: id, disks}),
	);
	const read = await readPoint(repository, 'web', id);
	expect(read.manifest.disks).toEqual(manifest.disks);
});
