import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {exportPoint} from '../../../src/operations/archive/export-point.ts';
import {importArchive, type ImportRequest} from '../../../src/operations/archive/import-archive.ts';
import {restore} from '../../../src/operations/restore.ts';
import {verify} from '../../../src/operations/verify.ts';
import {openOrCreateRepository} from '../../../src/repository/repository.ts';
import {ownRuntimeFolder} from '../../jobs/bare-vm.ts';
import {collect} from '../../jobs/collect.ts';
import {corrupt, machine, temporaryFolder} from '../../repository/fixture.ts';
import {PointChain} from '../../repository/point-chain.ts';
import {headerOf, written} from '../../vma/archives.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const signal = new AbortController().signal;

async function imported(request: Omit<ImportRequest, 'signal' | 'compression'>) {
	const last = (await collect(importArchive({...request, compression: 'zstd', signal}))).at(-1);
	if (last?.kind !== 'finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
	return last;
}

/** The point is sound, by its files and its content, and restores to what its disks held. */
async function expectHeld(repository: string, vm: string, held: ReadonlyMap<string, Buffer>): Promise<void> {
	const verified = await collect(verify({repository, vm, depth: 'content'}));
	expect(verified.filter(({kind}) => kind === 'verified')).toMatchObject([{problems: []}]);
	const to = path.join(temporaryFolder(), 'restored');
	await collect(restore({repository, vm, to, format: 'raw'}));
	const found = fs
		.readdirSync(to)
		.map(file => [path.basename(file, '.raw'), fs.readFileSync(path.join(to, file))] as const);
	expect(found.map(([disk]) => disk).sort()).toEqual([...held.keys()].sort());
	for (const [disk, bytes] of found) expect(bytes.equals(held.get(disk)!)).toBe(true);
}

/** An archive of an increment. */
async function archived(): Promise<{file: string; held: ReadonlyMap<string, Buffer>; cutAt: string}> {
	const chain = new PointChain(await openOrCreateRepository(temporaryFolder()));
	const {id, manifest} = await chain.on(await chain.on(null));
	const file = path.join(temporaryFolder(), 'web.vma');
	const target = {kind: 'file', path: file} as const;
	const from = {repository: chain.repository.path, vm: 'web', point: id};
	await collect(exportPoint({...from, format: 'vma', compression: 'none', target, signal}));
	return {file, held: chain.held.get(id)!, cutAt: manifest.cutAt};
}

test('an archive of ours becomes a full point of the same disks', async () => {
	const {file, held, cutAt} = await archived();
	const repository = temporaryFolder();
	const {manifest, folder} = await imported({source: {kind: 'file', path: file}, repository});
	expect(manifest).toMatchObject({
		...{vm: 'web', id: '2026-11-21T10-00-00Z', kind: 'full', cutAt, consistency: 'crash-consistent', method: 'import'},
		disks: [
			{name: 'vda', layout: 'alone', hashes: 'vda.hashes', bitmap: null},
			{name: 'vdb', layout: 'alone', hashes: 'vdb.hashes', bitmap: null},
		],
	});
	expect(fs.readdirSync(folder).filter(name => name.startsWith('.'))).toEqual([]);
	expect(JSON.parse(fs.readFileSync(path.join(folder, 'machine.json'), 'utf8'))).toEqual(machine);
	await expectHeld(repository, 'web', held);
});

test('so does one of Proxmox, from a stream, under a name', async () => {
	const header = headerOf(200_192, 65_536);
	const held = new Map([
		['scsi0', Buffer.alloc(200_192, 7)],
		['scsi1', Buffer.alloc(65_536)],
	]);
	const {archive} = await written(header, new Map([...held].map(([name, bytes]) => [`drive-${name}`, bytes])));
	const file = path.join(temporaryFolder(), 'foreign.vma');
	fs.writeFileSync(file, archive);
	const repository = temporaryFolder();
	const source = () => ({kind: 'stream', stream: fs.createReadStream(file)}) as const;
	await expect(imported({source: source(), repository})).rejects.toThrow(/does not say how its VM is called/);
	const {manifest} = await imported({source: source(), repository, name: 'db'});
	expect(manifest).toMatchObject({vm: 'db', uuid: null, cutAt: '2023-11-14T22:13:20.000Z'});
	await expectHeld(repository, 'db', held);
});

test.each(['damaged', 'cut off', 'cancelled'] as const)('one that is %s leaves nothing', async how => {
	const {file} = await archived();
	const {size} = fs.statSync(file);
	if (how === 'damaged') corrupt(file, size - 1000);
	if (how === 'cut off') fs.truncateSync(file, size - 4096);
	const repository = temporaryFolder();
	const cancelling = new AbortController();
	const request = {
		repository,
		source: {kind: 'file', path: file},
		compression: 'none',
		signal: cancelling.signal,
	} as const;
	const importing = collect(importArchive(request), ({kind}) => {
		if (how === 'cancelled' && kind === 'storing') cancelling.abort(new Error('enough'));
	});
	await expect(importing).rejects.toMatchObject(how === 'cancelled' ? {message: 'enough'} : {code: 'DAMAGED'});
	expect(fs.readdirSync(path.join(repository, 'vms'))).toEqual([]);
});
