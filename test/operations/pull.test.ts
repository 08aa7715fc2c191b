import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {capabilitiesOf} from '../../src/block/probe.ts';
import {backup} from '../../src/operations/backup.ts';
import {recover} from '../../src/operations/recover.ts';
import {openVm} from '../../src/operations/vm-session.ts';
import {inside, MIB, ownRuntimeFolder, processesNaming, startVm} from '../jobs/bare-vm.ts';
import {expectNothingLeft, finishedOf, requestFor, take} from '../jobs/backups.ts';
import {collect} from '../jobs/collect.ts';
import {quietRequest} from '../jobs/quiet-request.ts';
import {temporaryFolder, temporaryMount} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {startToolAt} from './tool-at-step.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const PULL = {method: 'pull', sink: 'daemon', compression: 'zstd'} as const;

test('what is in a point of pull is what is in one of push, with small bitmaps and odd sizes', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const points = [await written.back(repository, {...PULL, granularity: 4096})];
	for (const method of ['pull', 'push', 'pull'] as const) {
		for (const {name} of written.disks) await written.writeAround(name);
		points.push(await written.back(repository, {...PULL, granularity: 4096, method}));
	}
	for (const point of points) expectHeld(point);
	expect(points.map(({finished: {manifest}}) => manifest.method)).toEqual(['pull', 'pull', 'push', 'pull']);
	expect(points.slice(1).map(point => storedAs(point, 'vdb').kind)).toEqual(points.slice(1).map(() => 'incremental'));
	await expectNothingLeft(written.vm, repository);
});

test('a VM with I/O threads, whose QEMU could abort, is refused; a newer one is not', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: 1, iothread: true}]);
	const repository = temporaryFolder();
	const session = await openVm({qmp: {unix: vm.qmpPath}});
	const isSafe = capabilitiesOf(session.schema, session.qmp.version)['pull-with-iothreads'].available;
	await session.close();
	const taking = take(requestFor(vm, repository, PULL));
	if (isSafe) expect(finishedOf(await taking).manifest.method).toBe('pull');
	else await expect(taking).rejects.toThrow(/^vda has an I\/O thread, and QEMU \S+ can abort/);
	await expectNothingLeft(vm, repository);
});

test('only a daemon takes what is pulled', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	await expect(written.back(repository, {...PULL, sink: 'inline'})).rejects.toThrow(
		'only a daemon takes what is pulled',
	);
	await expectNothingLeft(written.vm, repository);
});

test.each(['cancelled', 'without a daemon', 'too slow'] as const)('a copy that is %s leaves nothing', async how => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const before = await inside(written.vm.qmp);
	const end = new AbortController();
	const request = {
		...requestFor(written.vm, repository, {...PULL, speedBytesPerSecond: MIB}),
		signal: end.signal,
		...(how === 'too slow' ? {targetTimeoutMs: 1} : {}),
	};
	const copying = collect(backup(request), ({kind}) => {
		if (kind !== 'cut') return;
		if (how === 'cancelled') end.abort(new Error('enough'));
		if (how === 'without a daemon')
			for (const pid of processesNaming(process.env['QUIESCE_RUNTIME_DIR']!)) process.kill(pid, 'SIGKILL');
	});
	const why = {
		'cancelled': 'enough',
		'without a daemon': /qemu-storage-daemon ended by itself|nbd.sock: .*(closed|ECONNRESET|EPIPE)/,
		'too slow': 'no progress',
	};
	await expect(copying).rejects.toThrow(why[how]);
	expect(await inside(written.vm.qmp)).toEqual(before);
	await expectNothingLeft(written.vm, repository);
	await written.writeAround('vda');
	expectHeld(await written.back(repository, PULL));
});

test('a copy that would fill the file system is stopped before it does', async () => {
	const written = await new WrittenVm().start();
	const mount = temporaryMount(48);
	const repository = path.join(mount, 'repository');
	fs.mkdirSync(repository, {mode: 0o700});
	const before = await inside(written.vm.qmp);
	const slowly = requestFor(written.vm, repository, {...PULL, compression: 'none', speedBytesPerSecond: MIB});
	const taking = take(slowly, ({kind}) => {
		// Somebody else takes what was left.
		if (kind === 'cut') fs.writeFileSync(path.join(mount, 'other'), Buffer.alloc(30 * MIB, 1));
	});
	await expect(taking).rejects.toThrow(/no space is left in .*: the copy was stopped before it was full/);
	expect(await inside(written.vm.qmp)).toEqual(before);
	await expectNothingLeft(written.vm, repository);
});

test('a copy whose QEMU is killed fails', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const copying = collect(
		backup(requestFor(written.vm, repository, {...PULL, speedBytesPerSecond: MIB})),
		async ({kind}) => {
			if (kind === 'cut') await written.kill();
		},
	);
	await expect(copying).rejects.toThrow();
	await written.start();
	const next = await written.back(repository, PULL);
	expectHeld(next);
	await expectNothingLeft(written.vm, repository);
});

test.each([
	'qmp <- nbd-server-start #1',
	'qmp <- block-export-add #2',
	'qmp -> block-export-del #1',
	'qmp <- nbd-server-stop #1',
	'qmp <- blockdev-reopen #1',
])('a run that is killed at %s is undone by the next', async step => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const before = await inside(written.vm.qmp);
	const args = ['backup', '--qmp', written.vm.qmpPath, '-r', repository, '--method', 'pull', '--quiesce', 'never'];
	const tool = startToolAt(step, args);
	expect(await tool.stopped, `${tool.stderr()}${tool.steps().join('\n')}`).toBe(true);
	await tool.killBoth();
	await written.writeAround('vda');
	await textsOf(recover({...quietRequest(written.vm), repository}));
	expect(await inside(written.vm.qmp)).toEqual(before);
	expectHeld(await written.back(repository, PULL));
	await expectNothingLeft(written.vm, repository);
});
