import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {parseCopyCommand} from '../../src/images/copy-image.ts';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';
import {restore} from '../../src/operations/restore.ts';
import {verify} from '../../src/operations/verify.ts';
import {type BareDisk, eventually, isRunning, MIB, ownRuntimeFolder, qemuIo} from '../jobs/bare-vm.ts';
import {expectNothingLeft, requestFor, startBackup} from '../jobs/backups.ts';
import {cloningMount, temporaryFolder} from '../repository/fixture.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const OVERLAY: Partial<BackupRequest> = {method: 'overlay'};
const DISKS: readonly BareDisk[] = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'},
	{name: 'vdb', sizeBytes: 4 * MIB + 512, fill: 0xbb, format: 'raw'},
];

/** Where the images are, and what is beside them when no backup is on. */
function beside({folder}: WrittenVm): string[] {
	return fs.readdirSync(folder).sort();
}

async function expectSound(repository: string): Promise<void> {
	const messages = await lastValueFrom(verify({repository, depth: 'content'}).pipe(toArray()));
	expect(messages.flatMap(message => (message.kind === 'verified' ? message.problems : []))).toEqual([]);
}

test.each([
	['by sharing data on XFS', 'reflink'],
	['by qemu-img', 'convert'],
	['by a command', 'command'],
] as const)('images are copied %s while the guest writes to overlays, and increments go on', async (_how, by) => {
	const mount = by === 'reflink' ? cloningMount('xfs') : undefined;
	const folder = mount === undefined ? temporaryFolder() : path.join(mount, 'images');
	const repository = mount === undefined ? temporaryFolder() : path.join(mount, 'repository');
	for (const made of [folder, repository]) fs.mkdirSync(made, {recursive: true});
	const written = await new WrittenVm(DISKS, folder).start();
	const copyCommand = by === 'command' ? parseCopyCommand('cp --sparse=always {source} {target}') : undefined;
	const images = beside(written);

	const first = await written.back(repository, {...OVERLAY, copyCommand});
	expect(beside(written)).toEqual(images);
	await expectNothingLeft(written.vm, repository);
	expect(first.finished.manifest).toMatchObject({method: 'overlay', sink: by, kind: 'full'});
	for (const {name} of written.disks) await written.writeAround(name);
	const second = await written.back(repository, {method: 'push', compression: 'zstd'});
	for (const {name} of written.disks) await written.writeAround(name);
	const third = await written.back(repository, {...OVERLAY, copyCommand});
	for (const {name} of written.disks) await written.writeAround(name);
	const fourth = await written.back(repository, {method: 'fleece'});
	for (const point of [first, second, third, fourth]) expectHeld(point);
	for (const {name} of written.disks) {
		expect(storedAs(second, name)).toMatchObject({kind: 'incremental', parent: first.finished.manifest.id});
		expect(storedAs(fourth, name)).toMatchObject({kind: 'incremental', parent: third.finished.manifest.id});
	}
	await expectSound(repository);
	await expectNothingLeft(written.vm, repository);
	expect(beside(written)).toEqual(images);
});

test('a copy that is not hashed stands aside: it restores, and increments go on from the point before', async () => {
	const mount = cloningMount('xfs');
	const [folder, repository] = [path.join(mount, 'images'), path.join(mount, 'repository')];
	for (const made of [folder, repository]) fs.mkdirSync(made);
	const written = await new WrittenVm(DISKS, folder).start();
	const first = await written.back(repository);
	for (const {name} of written.disks) await written.writeAround(name);
	const aside = await written.back(repository, {...OVERLAY, hashes: 'none'});
	for (const {name} of written.disks) await written.writeAround(name);
	const third = await written.back(repository);
	for (const point of [first, aside, third]) expectHeld(point);
	for (const {name} of written.disks) {
		const stored = aside.finished.manifest.disks.find(disk => disk.name === name);
		expect(stored).toMatchObject({layout: 'clone', sha256: null, hashes: null, bitmap: null});
		expect(storedAs(third, name)).toMatchObject({kind: 'incremental', parent: first.finished.manifest.id});
	}
	await expectSound(repository);
	const to = path.join(temporaryFolder(), 'restored');
	const restored = await lastValueFrom(
		restore({repository, vm: aside.finished.manifest.vm, point: aside.finished.manifest.id, to}),
	);
	expect(restored.kind).toBe('finished');
	await expectNothingLeft(written.vm, repository);
});

test('images that do not share their data with the repository have to be hashed', async () => {
	const written = await new WrittenVm(DISKS).start();
	const unhashed = written.back(cloningMount('xfs'), {...OVERLAY, hashes: 'none'});
	await expect(unhashed).rejects.toThrow(/^vda cannot share its data with .*, so it has to be hashed$/);
});

/** A command that copies once it is told to. */
function heldCopy(): {readonly command: readonly string[]; readonly goOn: () => void} {
	const folder = temporaryFolder();
	const [script, go] = [path.join(folder, 'copy'), path.join(folder, 'go')];
	fs.writeFileSync(script, '#!/bin/sh\nwhile [ ! -e "$1" ]; do sleep 0.05; done\nexec cp "$2" "$3"\n', {mode: 0o755});
	return {
		command: [script, go, '{source}', '{target}'],
		goOn: () => {
			fs.writeFileSync(go, '');
		},
	};
}

test('a run that is killed during the copy is undone: what the guest wrote meanwhile is in its images', async () => {
	const written = await new WrittenVm(DISKS).start();
	const repository = temporaryFolder();
	const images = beside(written);
	const copying = heldCopy();
	const run = startBackup(requestFor(written.vm, repository, {...OVERLAY, copyCommand: copying.command}));
	await run.until('cut');
	for (const {name} of written.disks) await written.writeAround(name, 4);
	const guard = await run.killAlone();
	await eventually(() => !isRunning(guard), 30_000);
	expect(run.stderr()).toContain('committed the overlays of vda, vdb');
	await expectNothingLeft(written.vm, repository);
	expect(beside(written)).toEqual(images);
	const next = await written.back(repository);
	expectHeld(next);
});

test('one whose command fails takes the overlays away, and no point appears', async () => {
	const written = await new WrittenVm(DISKS).start();
	const repository = temporaryFolder();
	const images = beside(written);
	await expect(written.back(repository, {...OVERLAY, copyCommand: ['false', '{source}', '{target}']})).rejects.toThrow(
		/^false failed on .*vd[ab]\.(qcow2|raw): exit code 1$/,
	);
	await expect(written.back(repository, {...OVERLAY, copyCommand: ['true', '{source}', '{target}']})).rejects.toThrow(
		/^true has made no copy of/,
	);
	await expectNothingLeft(written.vm, repository);
	expect(beside(written)).toEqual(images);
	expectHeld(await written.back(repository));
});

test('what the guest wrote is committed by qemu-img where QEMU is killed during the copy', async () => {
	const written = await new WrittenVm(DISKS).start();
	const repository = temporaryFolder();
	const images = beside(written);
	const copying = heldCopy();
	const run = startBackup(requestFor(written.vm, repository, {...OVERLAY, copyCommand: copying.command}));
	await run.until('cut');
	for (const {name} of written.disks) await written.writeAround(name, 4);
	// What the guest has not flushed is lost in any case.
	for (const {name} of written.disks) {
		await qemuIo(written.vm.qmp, `/machine/peripheral/${name}/virtio-backend`, 'flush');
	}
	await written.kill();
	copying.goOn();
	await expect(run.until('finished')).rejects.toThrow();
	await eventually(() => !isRunning(run.child.pid!), 30_000);
	expect(beside(written)).toEqual(images);
	await written.start();
	expectHeld(await written.back(repository));
});

test.each([
	['rsync -a {source}', /lacks \{target\}$/],
	['{source} {target}', /lacks \{source\}$/],
	['', /lacks \{source\} and \{target\}$/],
])('the command %j is no command', (text, message) => {
	expect(() => parseCopyCommand(text)).toThrow(message);
});
