import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';
import {type BareDisk, eventually, executeAny, MIB, ownRuntimeFolder, startVm} from '../jobs/bare-vm.ts';
import {expectNothingLeft, finishedOf, requestFor, take} from '../jobs/backups.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {expectHeld, storedAs, type Taken, WrittenVm} from './written-vm.ts';

const ONE: readonly BareDisk[] = [{name: 'vda', sizeBytes: 4 * MIB, fill: 0xaa, format: 'qcow2'}];
const RAW: readonly BareDisk[] = [{name: 'vda', sizeBytes: 4 * MIB, fill: 0xaa}];

beforeEach(() => {
	ownRuntimeFolder();
});

/** A VM with one point, and more written since. */
async function withOnePoint(disks: readonly BareDisk[] = ONE): Promise<{
	written: WrittenVm;
	repository: string;
	first: Taken;
	bitmap: string;
}> {
	const written = await new WrittenVm(disks).start();
	const repository = temporaryFolder();
	await written.writeAround('vda');
	const first = await written.back(repository);
	await written.writeAround('vda');
	return {written, repository, first, bitmap: first.finished.manifest.disks[0]!.bitmap!.name};
}

/** Takes a second point, which has to be full because of `reason`, and one after it that is not. */
async function expectFull(written: WrittenVm, repository: string, reason: RegExp): Promise<Taken> {
	const second = await written.back(repository);
	expect(storedAs(second, 'vda')).toEqual({
		kind: 'full',
		parent: null,
		reason: expect.stringMatching(reason) as string,
	});
	expectHeld(second);
	await written.writeAround('vda');
	const third = await written.back(repository);
	expect(storedAs(third, 'vda')).toEqual({kind: 'incremental', parent: second.finished.manifest.id, reason: null});
	expectHeld(third);
	await expectNothingLeft(written.vm, repository);
	return second;
}

async function expectIncrement(written: WrittenVm, repository: string, parent: Taken): Promise<Taken> {
	const point = await written.back(repository);
	expect(storedAs(point, 'vda')).toMatchObject({kind: 'incremental', parent: parent.finished.manifest.id});
	expectHeld(point);
	expectHeld(parent);
	return point;
}

test('the first point is full, and says that it is the first', async () => {
	const {first} = await withOnePoint();
	expect(storedAs(first, 'vda')).toEqual({
		kind: 'full',
		parent: null,
		reason: 'it is the first point of this disk in the repository',
	});
	expectHeld(first);
});

test('full where the bitmap was removed', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	await written.execute('block-dirty-bitmap-remove', {node: 'vda-node', name: bitmap});
	await expectFull(written, repository, /^its bitmap is missing: another program removed it/);
});

test('full where the bitmap was disabled for a while', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	await written.execute('block-dirty-bitmap-disable', {node: 'vda-node', name: bitmap});
	await expectFull(written, repository, /^its bitmap was disabled, and has missed writes$/);
});

test('full where a bitmap of another granularity bears the name', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	await written.execute('block-dirty-bitmap-remove', {node: 'vda-node', name: bitmap});
	await written.execute('block-dirty-bitmap-add', {node: 'vda-node', name: bitmap, granularity: 131_072});
	await expectFull(written, repository, /^its bitmap has a granularity of 131072 bytes, and had 65536/);
});

test('full while another program uses the bitmap, which is then removed once that is through', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	const socket = path.join(temporaryFolder(), 'nbd.sock');
	await written.execute('nbd-server-start', {addr: {type: 'unix', data: {path: socket}}});
	await written.execute('block-export-add', {
		...{'type': 'nbd', 'id': 'theirs', 'node-name': 'vda-node', 'bitmaps': [{node: 'vda-node', name: bitmap}]},
	});
	const second = await written.back(repository);
	expect(storedAs(second, 'vda').reason).toMatch(/^its bitmap is in use by a job or an export of another program$/);
	expectHeld(second);
	await written.execute('block-export-del', {id: 'theirs', mode: 'hard'});
	await eventually(async () => (await written.vm.qmp.execute('query-block-exports')).length === 0);
	await expectIncrement(written, repository, second);
	expect(await written.bitmaps('vda')).toHaveLength(2);
});

test('full where QEMU was killed and its bitmap never stored', async () => {
	const {written, repository} = await withOnePoint();
	await written.kill();
	await written.start();
	await expectFull(written, repository, /^its bitmap is missing: QEMU was killed before it was started anew on 20/);
});

test('full where QEMU was killed while a stored bitmap was in use, and what is left of that goes', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	await written.quit();
	await written.start();
	await written.writeAround('vda');
	await written.kill();
	await written.start();
	const second = await expectFull(
		written,
		repository,
		/^its bitmap is inconsistent: QEMU was killed while it was in use/,
	);
	expect((await written.bitmaps('vda')).map(({name}) => name)).not.toContain(bitmap);
	expectHeld(second);
});

test('incremental over a clean restart of QEMU', async () => {
	const {written, repository, first} = await withOnePoint();
	await written.quit();
	await written.start();
	await written.writeAround('vda');
	const second = await expectIncrement(written, repository, first);
	await written.quit();
	await written.start();
	await expectIncrement(written, repository, second);
});

test('full where the disk was made larger', async () => {
	const {written, repository} = await withOnePoint();
	await written.execute('block_resize', {'node-name': 'vda-node', 'size': 5 * MIB});
	written.contents.set('vda', Buffer.concat([written.contents.get('vda')!, Buffer.alloc(MIB)]));
	await written.write('vda', 4 * MIB + 512, 512);
	await expectFull(written, repository, /^it had 4194304 bytes at point .*, and has 5242880$/);
});

test('full where another image lies in the place of the disk, whatever bitmaps it brings', async () => {
	const {written, repository, first} = await withOnePoint();
	await written.quit();
	const file = path.join(written.folder, 'vda.qcow2');
	// A copy has the bitmaps of the original.
	fs.copyFileSync(file, `${file}.copy`);
	fs.renameSync(`${file}.copy`, file);
	await written.start();
	expect(await written.bitmaps('vda')).toHaveLength(1);
	await expectFull(written, repository, /vda\.qcow2 was replaced by another file$/);
	expectHeld(first);
});

test('full where the disk was reverted to a snapshot', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	await written.execute('blockdev-snapshot-internal-sync', {device: 'vda-node', name: 'before'});
	const before = Buffer.from(written.contents.get('vda')!);
	await written.writeAround('vda');
	await written.quit();
	const file = path.join(written.folder, 'vda.qcow2');
	// QEMU refuses it before.
	qemuImg('bitmap', '--remove', file, bitmap);
	qemuImg('snapshot', '-a', 'before', file);
	written.contents.set('vda', before);
	await written.start();
	await expectFull(written, repository, /^its bitmap is missing/);
});

test('full where another program took a snapshot', async () => {
	const {written, repository} = await withOnePoint();
	const overlay = path.join(written.folder, 'overlay.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', overlay, '4M');
	const node = {
		'driver': 'qcow2',
		'node-name': 'overlay',
		'backing': null,
		'file': {driver: 'file', filename: overlay},
	};
	await written.execute('blockdev-add', node);
	await written.execute('blockdev-snapshot', {node: 'vda-node', overlay: 'overlay'});
	await written.writeAround('vda');
	await expectFull(
		written,
		repository,
		/^another program took a snapshot, and its bitmap stayed with the image beneath$/,
	);
});

test('full, and no bitmap begun, while another program has the image open for writing', async () => {
	const {written, repository} = await withOnePoint();
	const file = path.join(written.folder, 'vda.qcow2');
	const other = spawn('sleep', ['600'], {stdio: ['ignore', fs.openSync(file, 'r+'), 'ignore']});
	onTestFinished(() => void other.kill());
	const second = await written.back(repository);
	expect(storedAs(second, 'vda').reason).toMatch(/^process \d+ \(sleep\) has its image open for writing/);
	expect(second.finished.manifest.disks[0]!.bitmap).toBeNull();
	other.kill();
	await once(other, 'exit');
	await expectFull(written, repository, /^no bitmap was begun at point/);
});

test('always full with share-rw', async () => {
	const {written, repository} = await withOnePoint([{...ONE[0]!, shared: true}]).catch(async () => {
		const bare = await new WrittenVm([{...ONE[0]!, shared: true}]).start();
		return {written: bare, repository: temporaryFolder()};
	});
	const first = await written.back(repository);
	expect(storedAs(first, 'vda').reason).toMatch(/^share-rw is on/);
	expect(await written.bitmaps('vda')).toEqual([]);
});

test('where the newest point has gone or is damaged, the last full is what the next is based on', async () => {
	const {written, repository, first} = await withOnePoint();
	const second = await expectIncrement(written, repository, first);
	fs.truncateSync(path.join(second.finished.folder, 'vda.qcow2'), 100_000);
	await written.writeAround('vda');
	const third = await written.back(repository);
	expect(storedAs(third, 'vda')).toEqual({
		kind: 'incremental',
		parent: first.finished.manifest.id,
		reason: expect.stringMatching(/^nothing can be based on .*: point .* is damaged: .* has 100000 bytes/) as string,
	});
	expectHeld(third);
	fs.rmSync(third.finished.folder, {recursive: true});
	fs.rmSync(second.finished.folder, {recursive: true});
	await written.writeAround('vda');
	await expectIncrement(written, repository, first);
});

test('full where every point that a bitmap belongs to has gone', async () => {
	const {written, repository, first} = await withOnePoint();
	fs.rmSync(first.finished.folder, {recursive: true});
	await expectFull(written, repository, /^it is the first point of this disk/);
	expect(await written.bitmaps('vda')).toHaveLength(2);
});

test('full where the manifest of the only point cannot be read, which is told', async () => {
	const {written, repository, first} = await withOnePoint();
	fs.writeFileSync(path.join(first.finished.folder, 'point.json'), '{}');
	const second = await expectFull(written, repository, /^it is the first point of this disk/);
	expect(second.warnings).toEqual([expect.stringMatching(/^the newest point, .*, cannot be read/)]);
});

test('two repositories back up one VM side by side, and leave the bitmaps of others alone', async () => {
	const {written, repository: one, first} = await withOnePoint();
	await written.execute('block-dirty-bitmap-add', {node: 'vda-node', name: 'qsc-theirs', persistent: true});
	const two = temporaryFolder();
	const other = await expectFull(written, two, /^it is the first point/);
	await written.writeAround('vda');
	await expectIncrement(written, one, first);
	expectHeld(other);
	const names = (await written.bitmaps('vda')).map(({name}) => name);
	expect(names).toHaveLength(5);
	expect(names).toContain('qsc-theirs');
});

test('incremental on the host that a VM was migrated to, over shared storage', async () => {
	const {written, repository, first} = await withOnePoint();
	const socket = path.join(temporaryFolder(), 'migration.sock');
	const source = written.vm;
	await written.start(undefined, ['-incoming', `unix:${socket}`]);
	await executeAny(source.qmp, 'migrate', {uri: `unix:${socket}`});
	await eventually(async () => {
		const {status} = (await executeAny(source.qmp, 'query-migrate')) as {status: string};
		return status === 'completed';
	});
	await source.kill();
	await written.writeAround('vda');
	await expectIncrement(written, repository, first);
});

test('a raw disk is incremental as long as QEMU lives, and full after', async () => {
	const {written, repository, first} = await withOnePoint(RAW);
	expect(await written.bitmaps('vda')).toEqual([
		{name: first.finished.manifest.disks[0]!.bitmap!.name, persistent: false, recording: true},
	]);
	await expectIncrement(written, repository, first);
	await written.quit();
	await written.start();
	await expectFull(
		written,
		repository,
		/^its bitmap is missing: QEMU keeps that of a raw disk in memory only, and was started anew on 20/,
	);
});

test('so is a disk on the network', async () => {
	const folder = temporaryFolder();
	const image = path.join(folder, 'image.raw');
	fs.writeFileSync(image, Buffer.alloc(4 * MIB, 0xaa));
	const socket = path.join(folder, 'nbd.sock');
	const server = spawn('qemu-nbd', ['-f', 'raw', '-k', socket, '-t', image], {stdio: 'ignore'});
	onTestFinished(() => void server.kill());
	await eventually(() => fs.existsSync(socket));
	const blockdev = `driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=${socket}`;
	const {written, repository, first} = await withOnePoint([{...RAW[0]!, blockdev}]).catch(() => {
		throw new Error('a disk on the network cannot be backed up');
	});
	expect(first.finished.manifest.method).toBe('push');
	await expectIncrement(written, repository, first);
	await written.quit();
	await written.start();
	await expectFull(written, repository, /^its bitmap is missing: QEMU keeps that of a raw disk in memory only/);
});

/** It measures how fast this processor is, and now and then finds that it could not (crypto/pbkdf.c, 7.2). */
function makeLuks(image: string, secret: readonly string[], tries = 5): void {
	const how = ['-f', 'luks', '-o', 'key-secret=key,iter-time=200', image, '4M'];
	try {
		execFileSync('qemu-img', ['create', '-q', ...secret, ...how], {stdio: 'pipe'});
	} catch (error) {
		if (tries === 1 || !String(error).includes('accurate CPU usage')) throw error;
		makeLuks(image, secret, tries - 1);
	}
}

test('so is an encrypted disk', async () => {
	const folder = temporaryFolder();
	const image = path.join(folder, 'image.luks');
	const secret = ['--object', 'secret,id=key,data=open-sesame'];
	makeLuks(image, secret);
	const blockdev = `driver=luks,key-secret=key,file.driver=file,file.filename=${image}`;
	const written = new WrittenVm([{name: 'vda', sizeBytes: 4 * MIB, blockdev}]);
	const args = ['-object', 'secret,id=key,data=open-sesame'];
	await written.start(undefined, args);
	await written.write('vda', 0, 4 * MIB, 7);
	const repository = temporaryFolder();
	const first = await written.back(repository);
	await written.writeAround('vda');
	await expectIncrement(written, repository, first);
	await written.quit();
	await written.start(undefined, args);
	await expectFull(written, repository, /^its bitmap is missing: QEMU keeps that of a luks disk in memory only/);
});

test('full where a base image was written to while QEMU was off: its bitmap could not know', async () => {
	const folder = temporaryFolder();
	const [base, image] = [path.join(folder, 'base.qcow2'), path.join(folder, 'vda.qcow2')] as const;
	qemuImg('create', '-q', '-f', 'qcow2', base, '4M');
	qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, image);
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 4 * MIB, format: 'qcow2', image}]).start();
	const repository = temporaryFolder();
	const first = await written.back(repository);
	await written.quit();
	await written.start();
	const second = await expectIncrement(written, repository, first);
	await written.quit();
	execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 9 3M 64k', base]);
	written.contents.get('vda')!.fill(0);
	await written.start();
	await written.write('vda', 0, 4 * MIB, 5);
	const third = await written.back(repository);
	expect(storedAs(third, 'vda').reason).toMatch(/base\.qcow2 was written to$/);
	expectHeld(second);
});

test('firmware is full every time', async () => {
	const folder = temporaryFolder();
	const files = ['code', 'vars'].map(name => path.join(folder, `${name}.fd`));
	for (const file of files) fs.writeFileSync(file, Buffer.alloc(128 * 1024, 0x11));
	const args = files.flatMap((file, unit) => [
		'-drive',
		`if=pflash,unit=${unit},format=raw,file=${file}${unit === 0 ? ',readonly=on' : ''}`,
	]);
	const vm = await startVm(RAW, {args});
	const repository = temporaryFolder();
	for (const kind of ['full', 'incremental']) {
		const {manifest} = finishedOf(await take(requestFor(vm, repository)));
		expect(Object.fromEntries(manifest.disks.map(disk => [disk.name, [disk.kind, disk.reason]]))).toEqual({
			vda: [kind, kind === 'full' ? 'it is the first point of this disk in the repository' : null],
			pflash1: ['full', 'it is firmware, which is small'],
		});
		expect(manifest.kind).toBe(kind);
	}
});

test('each disk is decided by itself: one that cannot be incremental is full in the same point', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const first = await written.back(repository);
	await written.execute('block-dirty-bitmap-remove', {
		node: 'vdb-node',
		name: first.finished.manifest.disks[1]!.bitmap!.name,
	});
	await written.writeAround('vda');
	const second = await written.back(repository);
	expect([storedAs(second, 'vda').kind, storedAs(second, 'vdb').kind]).toEqual(['incremental', 'full']);
	expectHeld(second);
	const third = await written.back(repository);
	expect([storedAs(third, 'vda').kind, storedAs(third, 'vdb').kind]).toEqual(['incremental', 'incremental']);
	for (const point of [first, second, third]) expectHeld(point);
});

test('a differential is based on the last full, and a full is taken when it is asked for or due', async () => {
	const {written, repository, first} = await withOnePoint();
	const differential: Partial<BackupRequest> = {kind: 'differential'};
	for (let nth = 0; nth < 2; nth++) {
		await written.writeAround('vda');
		const point = await written.back(repository, differential);
		expect(storedAs(point, 'vda')).toEqual({kind: 'differential', parent: first.finished.manifest.id, reason: null});
		expectHeld(point);
	}
	await written.writeAround('vda');
	const incremental = await written.back(repository);
	expect(storedAs(incremental, 'vda').kind).toBe('incremental');
	expect(storedAs(incremental, 'vda').parent).not.toBe(first.finished.manifest.id);
	expectHeld(incremental);
	const notDue = await written.back(repository, {fullEveryMs: 3_600_000});
	expect(storedAs(notDue, 'vda').kind).toBe('incremental');
	const due = await written.back(repository, {fullEveryMs: 1});
	expect(storedAs(due, 'vda')).toMatchObject({
		kind: 'full',
		reason: expect.stringMatching(/a new one was due$/) as string,
	});
	const asked = await written.back(repository, {kind: 'full'});
	expect(storedAs(asked, 'vda')).toMatchObject({kind: 'full', reason: 'a full was asked for'});
	for (const point of [incremental, notDue, due, asked]) expectHeld(point);
});

test('full where the disk was made smaller for a while: its bitmap has lost bits, and does not show it', async () => {
	const {written, repository} = await withOnePoint();
	await written.write('vda', 3 * MIB, MIB);
	await written.execute('block_resize', {'node-name': 'vda-node', 'size': 3 * MIB});
	await written.execute('block_resize', {'node-name': 'vda-node', 'size': 4 * MIB});
	written.contents.get('vda')!.fill(0, 3 * MIB);
	await expectFull(written, repository, /^its bitmap was cleared, or the disk was made smaller for a while/);
});

test('full where another program cleared the bitmap', async () => {
	const {written, repository, bitmap} = await withOnePoint();
	await written.execute('block-dirty-bitmap-clear', {node: 'vda-node', name: bitmap});
	// Not at the end of the disk: that would set the mark again.
	await written.write('vda', MIB, MIB);
	await expectFull(written, repository, /^its bitmap was cleared, or/);
});
