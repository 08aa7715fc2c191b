import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {devicePath} from '../../src/block/devices.ts';
import type {QmpConnection} from '../../src/qmp/connection.ts';
import {executeAny, inside, MIB, qemuIo, startVm} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {blockState, fleecing, intercepted, namesSeen, removedFiles, WAYS} from './fleecing.ts';

interface Kind {
	readonly what: string;
	readonly sizeBytes: number;
	/** Of QEMU, in a folder with `old.raw`, whose every byte is 0xaa. */
	readonly args: (old: string) => readonly string[];
	readonly format?: 'qcow2';
}

const KINDS: readonly Kind[] = [
	{
		what: 'a node with an I/O thread',
		sizeBytes: 4 * MIB,
		args: old => [...blockdev(`driver=raw,file.driver=file,file.filename=${old}`), ...virtio('iothread=io0')],
	},
	{
		what: 'a drive without any id',
		sizeBytes: 4 * MIB,
		args: old => ['-drive', `if=virtio,format=raw,file=${old}`],
	},
	{
		what: 'a drive with an id and a limit',
		sizeBytes: 4 * MIB,
		args: old => [
			...['-drive', `if=none,id=drive0,format=raw,file=${old},bps=1000000000`],
			...['-device', 'virtio-blk-pci,drive=drive0'],
		],
	},
	{
		what: 'a qcow2 image over another image',
		sizeBytes: 4 * MIB,
		args: old => {
			const overlay = path.join(path.dirname(old), 'overlay.qcow2');
			execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', old, overlay]);
			return [...blockdev(`driver=qcow2,file.driver=file,file.filename=${overlay}`), ...virtio()];
		},
		format: 'qcow2',
	},
	{
		what: 'a disk under a throttle filter',
		sizeBytes: 4 * MIB,
		args: old => [
			...['-object', 'throttle-group,id=slow,x-iops-total=100000'],
			...blockdev(
				`driver=throttle,throttle-group=slow,file.driver=raw,file.file.driver=file,file.file.filename=${old}`,
			),
			...virtio(),
		],
	},
	{
		what: 'a SCSI disk',
		sizeBytes: 4 * MIB,
		args: old => [
			...blockdev(`driver=raw,file.driver=file,file.filename=${old}`),
			...['-device', 'virtio-scsi-pci', '-device', 'scsi-hd,drive=node0'],
		],
	},
	{
		what: 'flash of an odd size',
		sizeBytes: 540_672,
		args: old => ['-drive', `if=pflash,unit=1,format=raw,file=${old}`, '-drive', `if=pflash,unit=0,${firmware(old)}`],
	},
	{
		what: 'an odd size',
		sizeBytes: MIB + 512,
		args: old => [...blockdev(`driver=raw,file.driver=file,file.filename=${old}`), ...virtio()],
	},
];

function blockdev(options: string): string[] {
	return ['-blockdev', `node-name=node0,${options}`];
}

function virtio(iothread?: string): string[] {
	return [
		...(iothread === undefined ? [] : ['-object', 'iothread,id=io0']),
		...['-device', `virtio-blk-pci,drive=node0${iothread === undefined ? '' : `,${iothread}`}`],
	];
}

function firmware(beside: string): string {
	const file = path.join(path.dirname(beside), 'firmware.raw');
	fs.writeFileSync(file, Buffer.alloc(540_672, 0xff));
	return `format=raw,readonly=on,file=${file}`;
}

/** The device that the guest can write through. */
async function writableDevice(qmp: QmpConnection): Promise<string> {
	const found = (await qmp.execute('query-block')).find(({inserted}) => inserted && !inserted.ro);
	return devicePath(found!.qdev!);
}

test.each(KINDS.flatMap(kind => WAYS.map(by => ({...kind, by}))))(
	'$what shows in the copy what was there before the cut, and nothing after it (by $by)',
	async ({sizeBytes, args, format, by}) => {
		const old = path.join(temporaryFolder(), 'old.raw');
		fs.writeFileSync(old, Buffer.alloc(sizeBytes, 0xaa));
		const vm = await startVm([], {args: args(old)});
		const device = await writableDevice(vm.qmp);
		const atCut = Buffer.alloc(sizeBytes, 0xaa).fill(0xcc, 8192, 12_288);
		const {prepare, copyAll, copies} = await fleecing(vm.qmp, {by});
		const before = await blockState(vm.qmp);

		const cut = await prepare();
		await qemuIo(vm.qmp, device, 'write -P 0xcc 8192 4096');
		await copyAll(cut, {
			onceCut: () => qemuIo(vm.qmp, device, `write -P 0xbb 0 ${sizeBytes - 65_536}`),
			whileCopying: () => qemuIo(vm.qmp, device, `write -P 0xbb ${sizeBytes - 65_536} 65536`),
		});
		expect(copies).toHaveLength(1);
		expect(fs.readFileSync(copies[0]!).equals(atCut)).toBe(true);
		expect(await blockState(vm.qmp)).toEqual(before);

		await qemuIo(vm.qmp, device, 'write -P 0xdd 4096 4096');
		await qemuIo(vm.qmp, device, 'flush');
		const image = format === 'qcow2' ? asRaw(path.join(path.dirname(old), 'overlay.qcow2')) : old;
		const now = Buffer.alloc(sizeBytes, 0xbb).fill(0xdd, 4096, 8192);
		expect(fs.readFileSync(image).equals(now)).toBe(true);
	},
);

function asRaw(qcow2: string): string {
	const raw = path.join(temporaryFolder(), 'now.raw');
	execFileSync('qemu-img', ['convert', '-U', '-O', 'raw', qcow2, raw]);
	return raw;
}

test.each(WAYS)('bitmaps of others stay, and go on (by %s)', async by => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB}]);
	await executeAny(vm.qmp, 'block-dirty-bitmap-add', {node: 'vda-node', name: 'theirs', granularity: 65_536});
	await vm.write('vda', 1, 0, 512);
	const {prepare, copyAll} = await fleecing(vm.qmp, {by});
	const before = await blockState(vm.qmp);
	await copyAll(await prepare());
	expect(await blockState(vm.qmp)).toEqual(before);
	await copyAll(await prepare(), {onceCut: () => vm.write('vda', 1, 512 * 1024, 512)});
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	const bitmaps = nodes.find(node => node['node-name'] === 'vda-node')!['dirty-bitmaps'];
	expect(bitmaps).toMatchObject([{name: 'theirs', count: 2 * 65_536, recording: true, busy: false}]);
});

test.each(WAYS)('scratch has no name once all is ready, and is for its owner alone (by %s)', async by => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: MIB})));
	const qemuUid = process.getuid!() === 0 ? 65_534 : process.getuid!();
	const {prepare, copyAll, scratchFolder} = await fleecing(vm.qmp, {by, qemuUid});
	let modes: number[] = [];
	const cut = await prepare(
		intercepted(vm.qmp, command => {
			if (command !== 'blockdev-add') return;
			const named = fs.readdirSync(scratchFolder).map(name => fs.statSync(path.join(scratchFolder, name)).mode & 0o777);
			modes = [...modes, ...named];
		}),
	);
	expect(modes).toEqual([0o600, 0o600]);
	const seen = namesSeen(scratchFolder);
	expect(fs.readdirSync(scratchFolder)).toEqual([]);
	const open = removedFiles(vm.pid);
	expect(open).toHaveLength(2);
	for (const {name, stat} of open) {
		// A QEMU with a root of its own is seen from outside.
		expect(path.dirname(name).endsWith(scratchFolder)).toBe(true);
		expect(stat).toMatchObject({size: MIB, uid: qemuUid, nlink: 0});
		expect(stat.mode & 0o777).toBe(0o600);
	}
	await copyAll(cut, {onceCut: () => vm.write('vda', 7, 0, MIB)});
	expect(seen()).toEqual([]);
	// It is freed as well.
	expect(removedFiles(vm.pid)).toEqual([]);
});

test.each(WAYS)('what the guest discards leaves the image, and stays in the copy (by %s)', async by => {
	const old = path.join(temporaryFolder(), 'old.raw');
	fs.writeFileSync(old, Buffer.alloc(4 * MIB, 0xaa));
	const node = `driver=raw,discard=unmap,file.driver=file,file.discard=unmap,file.filename=${old}`;
	const vm = await startVm([], {args: [...blockdev(node), ...virtio()]});
	const device = await writableDevice(vm.qmp);
	const allocated = (): number => fs.statSync(old).blocks * 512;
	const {prepare, copyAll, copies} = await fleecing(vm.qmp, {by, speedBytesPerSecond: 2 * MIB});
	const whole = allocated();
	await copyAll(await prepare(), {
		onceCut: async () => {
			await qemuIo(vm.qmp, device, 'discard 0 1M');
			expect(allocated()).toBe(whole - MIB);
		},
		whileCopying: async () => {
			await qemuIo(vm.qmp, device, 'discard 1M 1M');
			await qemuIo(vm.qmp, device, 'write -z -u 2M 1M');
			await qemuIo(vm.qmp, device, 'write -z 3M 1M');
			await qemuIo(vm.qmp, device, 'flush');
			expect(allocated()).toBeLessThanOrEqual(whole - 3 * MIB);
			expect(await vm.qmp.execute('query-jobs')).toMatchObject([{status: 'running'}]);
		},
	});
	expect(fs.readFileSync(copies[0]!).equals(Buffer.alloc(4 * MIB, 0xaa))).toBe(true);
	expect(fs.readFileSync(old).equals(Buffer.alloc(4 * MIB))).toBe(true);
});

test('a disk that the guest cannot write is read as it is, without scratch', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB, fill: 5}]);
	const {prepare, copyAll, copies} = await fleecing(vm.qmp, {readOnly: ['vda']});
	const before = await blockState(vm.qmp);
	const cut = await prepare();
	expect(removedFiles(vm.pid)).toEqual([]);
	await copyAll(cut);
	expect(fs.readFileSync(copies[0]!).equals(Buffer.alloc(MIB, 5))).toBe(true);
	expect(await blockState(vm.qmp)).toEqual(before);
});

test.each([{found: 'running'}, {found: 'paused'}])('a VM that was found $found is so again', async ({found}) => {
	const vm = await startVm([{name: 'vda', sizeBytes: MIB}]);
	await executeAny(vm.qmp, 'cont');
	if (found === 'paused') await executeAny(vm.qmp, 'stop');
	const {prepare, unwind} = await fleecing(vm.qmp, {by: 'pause', running: found === 'running'});
	const before = await inside(vm.qmp);
	const sent: string[] = [];
	const cut = await prepare(
		intercepted(vm.qmp, command => {
			sent.push(command);
		}),
	);
	expect(cut.pauses).toBe(found === 'running');
	expect(await cut.take()).toMatchObject({stood: found === 'running' ? 'vm' : 'disks'});
	expect(await vm.qmp.execute('query-status')).toMatchObject({status: found});
	expect(sent.filter(command => ['stop', 'cont'].includes(command))).toEqual(cut.pauses ? ['stop', 'cont'] : []);
	await unwind();
	expect(await inside(vm.qmp)).toEqual(before);
});

test('a VM goes on also when what is done in the pause fails', async () => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: MIB})));
	await executeAny(vm.qmp, 'cont');
	const {prepare, unwind} = await fleecing(vm.qmp, {by: 'pause', running: true, root: 'no-such-node'});
	const before = await inside(vm.qmp);
	await expect((await prepare()).take()).rejects.toThrow(/no-such-node/);
	expect(await vm.qmp.execute('query-status')).toMatchObject({status: 'running'});
	await unwind();
	expect(await inside(vm.qmp)).toEqual(before);
});
