import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {addScratch, scratchFilesIn} from '../../src/cut/scratch.ts';
import {sharesMounts} from '../../src/host/processes.ts';
import {startGuest} from '../guest/guest.ts';
import {eventually, inside, MIB, openQmp, startVm} from '../jobs/bare-vm.ts';
import {temporaryFolder, temporaryMount} from '../repository/fixture.ts';
import {startQemu} from '../support/real-qemu.ts';
import {blockState, fleecing, removedFiles, WAYS} from './fleecing.ts';

const NO_MOUNTS = 'this QEMU does not see what the test mounts';

test.for(WAYS)('scratch that is full fails the copy, not the guest (by %s)', async (by, {skip}) => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: 4 * MIB, fill: 0xaa})));
	skip(!(await sharesMounts(vm.pid)), NO_MOUNTS);
	const {prepare, copyAll, unwind} = await fleecing(vm.qmp, {by, scratchFolder: temporaryMount(1)});
	const before = await blockState(vm.qmp);
	const copied = copyAll(await prepare(), {
		onceCut: async () => {
			for (const disk of ['vda', 'vdb']) await vm.write(disk, 0xbb, 0, 4 * MIB);
		},
	});
	await expect(copied).rejects.toMatchObject({code: 'JOB_FAILED'});
	for (const disk of ['vda', 'vdb']) {
		expect(fs.readFileSync(vm.file(disk)).equals(Buffer.alloc(4 * MIB, 0xbb))).toBe(true);
	}
	await unwind();
	expect(await blockState(vm.qmp)).toEqual(before);
	expect(removedFiles(vm.pid)).toEqual([]);
	await vm.write('vda', 0xcc, 0, MIB);
	expect(fs.readFileSync(vm.file('vda'))[MIB - 1]).toBe(0xcc);
});

/** A file system whose writes can be held up. */
function temporaryExt4(): {folder: string; freeze: () => void; thaw: () => void} {
	const image = path.join(temporaryFolder(), 'image');
	fs.writeFileSync(image, '');
	fs.truncateSync(image, 64 * MIB);
	execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', image]);
	const folder = temporaryFolder();
	execFileSync('mount', ['-o', 'loop', image, folder]);
	let isFrozen = false;
	const thaw = (): void => {
		if (isFrozen) execFileSync('fsfreeze', ['-u', folder]);
		isFrozen = false;
	};
	onTestFinished(() => {
		thaw();
		execFileSync('umount', ['-l', folder]);
	});
	const freeze = (): void => {
		execFileSync('fsfreeze', ['-f', folder]);
		isFrozen = true;
	};
	return {folder, freeze, thaw};
}

test.for(WAYS)(
	'scratch that stalls holds a write of the guest up for no longer than was said (by %s)',
	{timeout: 120_000},
	async (by, {skip}) => {
		const guest = await startGuest({raw: 'writing', stamps: 'none', bytes: 8 << 20, rawBytes: 8 << 20, iothreads: 0});
		onTestFinished(guest.kill);
		skip(!(await sharesMounts(guest.pid)), NO_MOUNTS);
		// Comes to its end before the guest does: what writes to it cannot be killed while it is frozen.
		const {folder, freeze, thaw} = temporaryExt4();
		const qmp = await openQmp(guest.qmpPath);
		const {prepare, copyAll, unwind} = await fleecing(qmp, {
			by,
			running: true,
			scratchFolder: folder,
			maxStallSeconds: 1,
			only: ['vdc', 'vdd'],
			// A guest on a busy host takes its time to meet what is not copied yet.
			speedBytesPerSecond: MIB / 4,
		});
		const before = await inside(qmp);
		const written = async (): Promise<number> => (await guest.rawStats()).count;
		const atFirst = await guest.rawStats();
		const copied = copyAll(await prepare(), {
			whileCopying: async () => {
				freeze();
				// Each disk has to give up its copy once.
				const count = await written();
				await eventually(async () => (await written()) > count + 200, 30_000);
			},
		});
		await expect(copied).rejects.toMatchObject({code: 'JOB_FAILED'});
		const stats = await guest.rawStats();
		expect(stats.errors).toBe(0);
		expect(stats.worstOverallMs).toBeGreaterThan(900);
		// One request, which the writer sends as one, and what this machine makes of it.
		expect(stats.worstOverallMs).toBeLessThan(1000 + 4000 + atFirst.worstOverallMs);
		const {count: stalled} = stats;
		await expect(unwind()).rejects.toThrow(/does not answer: to remove it now would stop the guest$/);
		await eventually(async () => (await written()) > stalled + 10, 30_000);
		thaw();
		await unwind();
		expect(await inside(qmp)).toEqual(before);
		expect(removedFiles(guest.pid)).toEqual([]);
		const count = await written();
		await eventually(async () => (await written()) > count + 10, 30_000);
	},
);

test('what stands in the way of scratch is told, and nothing stays', async () => {
	const qemu = await startQemu();
	const qmp = await openQmp(qemu.qmpPath);
	const add = (folder: string): Promise<void> =>
		addScratch(qmp, {node: 'qsc-abc123-vda-scratch', folder, sizeBytes: MIB});
	const folder = temporaryFolder();
	await expect(add(path.join(folder, 'none'))).rejects.toMatchObject({
		code: 'REFUSED',
		message: expect.stringMatching(/^cannot have scratch in .*\/none: ENOENT/) as string,
		hint: expect.stringContaining('--scratch') as string,
	});
	await add(folder);
	await expect(add(folder)).rejects.toMatchObject({
		code: 'REFUSED',
		message: expect.stringMatching(/^cannot have scratch in .*: QEMU refused blockdev-add/) as string,
	});
	expect(fs.readdirSync(folder)).toEqual([]);
	expect(removedFiles(qemu.pid)).toHaveLength(1);
});

test('scratch files that a dead run left are found by their name, and nothing else', async () => {
	const folder = temporaryFolder();
	const names = [
		'.qsc-abc123-vda-scratch.scratch',
		'.qsc-abc123-vda.txt',
		'.qsc-abc-vda.scratch',
		'qsc-abc123-vda.scratch',
	];
	for (const name of names) fs.writeFileSync(path.join(folder, name), '');
	expect(await scratchFilesIn(folder)).toEqual([{run: 'abc123', file: path.join(folder, names[0]!)}]);
	expect(await scratchFilesIn(path.join(folder, 'none'))).toEqual([]);
	expect(await scratchFilesIn(path.join(folder, names[1]!))).toEqual([]);
});
