import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {recoverAll} from '../../src/operations/recover-all.ts';
import type {PointManifest} from '../../src/repository/manifest.ts';
import {eventually, isRunning, MIB, ownRuntimeFolder, processesNaming} from '../jobs/bare-vm.ts';
import {expectNothingLeft, expectNothingLeftOutside, type Finished, requestOff, take} from '../jobs/backups.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {startQemu} from '../support/real-qemu.ts';
import {startToolAt} from './tool-at-step.ts';
import {expectHeld, storedAs, type Taken, WrittenVm} from './written-vm.ts';

const ONE_DISK = [{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2' as const}];

beforeEach(() => {
	ownRuntimeFolder();
});

test('increments continue when the VM goes off and on', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const points: Taken[] = [await written.back(repository)];
	for (const times of [2, 1]) {
		for (const {name} of written.disks) await written.writeAround(name);
		await written.quit();
		for (let nth = 0; nth < times; nth++) points.push(await written.backOff(repository));
		await written.start();
		for (const {name} of written.disks) await written.writeAround(name);
		points.push(await written.back(repository));
	}
	for (const point of points) expectHeld(point);
	for (const disk of ['vda', 'vdb']) {
		expect(points.slice(1).map(point => storedAs(point, disk))).toEqual(
			points.slice(0, -1).map(({finished}) => ({kind: 'incremental', reason: null, parent: finished.manifest.id})),
		);
	}
	const off = points[1]!.finished.manifest;
	expect(off).toMatchObject({
		consistency: 'offline',
		method: 'push',
		freeze: null,
		standstill: null,
		uuid: written.uuid,
	});
	// Nothing had changed since.
	expect(points[2]!.finished.manifest.disks.map(({addedBytes}) => addedBytes < 400_000)).toEqual([true, true]);
	await expectNothingLeft(written.vm, repository);
	expectNothingLeftOutside(repository);
	expect(await written.bitmaps('vda')).toHaveLength(2);
});

/** By then the guard has ended, as nothing of the run is left but its folder. */
const STORED = 'images <- blockdev-reopen #1';

/** In the middle of the copy, between the point and its bitmaps, and once they are stored. */
const KILLED_AT = ['images <- transaction #2', 'host rename .POINT.partial #1', 'images -> transaction #4', STORED];

test('a run that is killed leaves sound images, with bitmaps that go on', {timeout: 120_000}, async () => {
	const written = await new WrittenVm(ONE_DISK).start();
	const repository = temporaryFolder();
	const points: Taken[] = [await written.back(repository)];
	await written.writeAround('vda');
	await written.quit();
	for (const step of KILLED_AT) {
		const before = pointsIn(repository);
		await killAt(step, repository);
		checkImage(written.image('vda'));
		const held = new Map([['vda', Buffer.from(written.contents.get('vda')!)]]);
		for (const folder of pointsIn(repository).filter(name => !before.includes(name))) {
			points.push({finished: readFinished(folder), held, warnings: []});
		}
		await written.start();
		await written.writeAround('vda', 3);
		points.push(await written.back(repository));
		expect(storedAs(points.at(-1)!, 'vda').kind, step).toBe('incremental');
		await written.writeAround('vda', 3);
		await written.quit();
	}
	points.push(await written.backOff(repository));
	for (const point of points) expectHeld(point);
	expectNothingLeftOutside(repository);
});

test('where the daemon is killed too, the next point is full, and says why', async () => {
	const written = await new WrittenVm(ONE_DISK).start();
	const repository = temporaryFolder();
	await written.back(repository);
	await written.quit();
	await killAt('images <- transaction #2', repository, () => {
		for (const pid of processesNaming('images.sock')) {
			if (fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(process.env['QUIESCE_RUNTIME_DIR']!)) {
				process.kill(pid, 'SIGKILL');
			}
		}
	});
	checkImage(written.image('vda'));
	const off = await written.backOff(repository);
	expect(storedAs(off, 'vda')).toMatchObject({
		kind: 'full',
		reason: 'its bitmap is inconsistent: QEMU was killed while it was in use',
	});
	await written.start();
	await written.writeAround('vda');
	const on = await written.back(repository);
	expect(storedAs(on, 'vda').kind).toBe('incremental');
	for (const point of [off, on]) expectHeld(point);
	expect(await written.bitmaps('vda')).toHaveLength(2);
});

test('images that somebody has open are refused, with who has them', async () => {
	const written = await new WrittenVm(ONE_DISK).start();
	const repository = temporaryFolder();
	await written.back(repository);
	await expect(written.backOff(repository)).rejects.toThrow(
		`is in use: VM web, process ${written.vm.pid} (qemu-system-x86) has it open for writing`,
	);
	await written.quit();
	const reader = await startQemu(
		...['-blockdev', `driver=qcow2,node-name=read,read-only=on,file.driver=file,file.filename=${written.image('vda')}`],
		...['-device', 'virtio-blk,drive=read'],
		...['-M', 'q35', '-S'],
	);
	await expect(written.backOff(repository)).rejects.toThrow(`process ${reader.pid} (qemu-system-x86) has it open`);
	await reader.kill();
	await written.backOff(repository);
	expectNothingLeftOutside(repository);
});

test('what cannot be opened safely is refused before anything is opened', async () => {
	const folder = temporaryFolder();
	const repository = temporaryFolder();
	const file = (name: string): string => path.join(folder, name);
	const refusal = async (named: string, format?: 'raw' | 'qcow2'): Promise<string> => {
		const sockets = {name: 'web', repository, images: [{disk: 'vda', path: file(named), format}]};
		return take(requestOff(repository, {sockets})).then(
			() => 'taken',
			(error: unknown) => (error as Error).message,
		);
	};
	qemuImg('create', '-q', '-f', 'qcow2', file('base'), '1M');
	expect(await refusal('base')).toMatch(/^the format of .*base is not known/);
	expect(await refusal('gone', 'qcow2')).toMatch(/gone cannot be opened: no such file/);
	fs.writeFileSync(file('raw'), Buffer.alloc(65536));
	expect(await refusal('raw', 'qcow2')).toMatch(/raw is not a sound qcow2 image: it has no qcow2 header/);

	qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', file('base'), file('top'));
	expect(await refusal('base', 'qcow2')).toBe(`${file('base')} is not to be opened: ${file('top')} lies on it`);
	qemuImg('rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', file('top'), file('base'));
	expect(await refusal('top', 'qcow2')).toMatch(/the chain goes round in a circle$/);
	fs.rmSync(file('base'));
	expect(await refusal('top', 'qcow2')).toMatch(/top lies on .*base, which cannot be opened: no such file/);

	qemuImg('create', '-q', '-f', 'qcow2', file('base2'), '1M');
	qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', file('base2'), file('guess'));
	// As QEMU before 6.1 made them: without the extension that names the format.
	writeAt(file('guess'), fs.readFileSync(file('guess')).indexOf(Buffer.from('e2792aca', 'hex')), 0, 0, 0, 0);
	expect(await refusal('guess', 'qcow2')).toMatch(/does not say which format its backing file .* has/);
	qemuImg('create', '-q', '-f', 'qcow2', file('bad'), '1M');
	// The bit by which QEMU marks what it found to be corrupt (docs/interop/qcow2.txt, incompatible features).
	writeAt(file('bad'), 79, 0x02);
	expect(await refusal('bad', 'qcow2')).toBe(`QEMU has marked ${file('bad')} as corrupt`);
	expectNothingLeftOutside(repository);
});

test('a raw disk in which the guest wrote a qcow2 header stays a raw disk', async () => {
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 1024 * 1024, format: 'raw'}]).start();
	const repository = temporaryFolder();
	await written.back(repository);
	await written.quit();
	const forged = path.join(temporaryFolder(), 'forged');
	qemuImg('create', '-q', '-f', 'qcow2', forged, '64M');
	const header = fs.readFileSync(forged);
	const handle = fs.openSync(written.image('vda'), 'r+');
	fs.writeSync(handle, header, 0, 65536, 0);
	fs.closeSync(handle);
	header.copy(written.contents.get('vda')!, 0, 0, 65536);
	const image = {disk: 'vda', path: written.image('vda')};
	const sockets = {name: 'web', repository, images: [{...image, format: 'qcow2' as const}]};
	await expect(take(requestOff(repository, {sockets}))).rejects.toThrow(
		/is a raw image, as point \S+ knows it, and not/,
	);
	const off = await written.backOff(repository);
	expectHeld(off);
	expect(storedAs(off, 'vda').reason).toBe('its bitmap is missing: QEMU kept that of a raw disk in memory only');
	expect(off.finished.manifest.disks[0]).toMatchObject({format: 'raw', sizeBytes: 1024 * 1024, bitmap: null});
});

function writeAt(file: string, offset: number, ...bytes: number[]): void {
	const handle = fs.openSync(file, 'r+');
	fs.writeSync(handle, Buffer.from(bytes), 0, bytes.length, offset);
	fs.closeSync(handle);
}

/** Runs the program until that step, and kills it; `also` is done while it stands there. */
async function killAt(step: string, repository: string, also: () => void = () => undefined): Promise<void> {
	const tool = startToolAt(step, ['backup', 'web', '--off', '-r', repository, '--compress', 'none']);
	expect(await tool.stopped, `${step}: ${tool.stderr()}`).toBe(true);
	also();
	const guard = (await tool.killAlone()) as number | undefined;
	await eventually(() => guard === undefined || !isRunning(guard), 30_000);
	await eventually(() => processesNaming(process.env['QUIESCE_RUNTIME_DIR']!).length === 0, 30_000);
	if (step === STORED)
		await lastValueFrom(
			recoverAll(requestOff(repository), () => Promise.resolve([])),
			{defaultValue: undefined},
		);
	expectNothingLeftOutside(repository);
}

function checkImage(image: string): void {
	qemuImg('check', '-q', '-f', 'qcow2', image);
}

/** The finished ones. */
function pointsIn(repository: string): string[] {
	const folder = path.join(repository, 'vms', 'web');
	return fs
		.readdirSync(folder)
		.filter(name => !name.startsWith('.'))
		.map(name => path.join(folder, name));
}

function readFinished(folder: string): Finished {
	const manifest = JSON.parse(fs.readFileSync(path.join(folder, 'point.json'), 'utf8')) as PointManifest;
	return {kind: 'finished', folder, manifest};
}
