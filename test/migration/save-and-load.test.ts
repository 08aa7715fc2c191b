import {createHash} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';
import {expect, onTestFinished, test} from 'vitest';
import type {MigrationMark} from '../../src/migration/end-migration.ts';
import {loadMemory} from '../../src/migration/load-memory.ts';
import {type MemoryFile, receiveMemory, openMemory} from '../../src/migration/memory-file.ts';
import {requireMigratable} from '../../src/migration/require-migratable.ts';
import {type MemoryMode, saveMemory} from '../../src/migration/save-memory.ts';
import {readSettings} from '../../src/migration/settings.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {type BareVm, executeAny} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {COUNTING_DISKS, countIn, countReaches, disagreement, startCountingVm} from './counting-vm.ts';

interface Saved {
	readonly file: string;
	readonly memory: MemoryFile & {readonly pausedMs: number};
	readonly images: readonly [string, string];
	/** In memory, at the cut. */
	readonly count: number;
	/** SHA-256 of the RAM at the cut. */
	readonly ram: string;
}

const PLACES = COUNTING_DISKS.map(({name}) => `${name}-node`);
const RAM_MIB = 16;

async function markFor(vm: BareVm): Promise<MigrationMark> {
	const schema = await QmpSchema.read(vm.qmp);
	return {
		settings: await readSettings(vm.qmp),
		wasRunning: (await vm.qmp.execute('query-status')).running,
		hasSwitched: false,
		canActivate: schema.hasCommand('blockdev-set-active'),
	};
}

/** As a snapshot does it: overlays over all disks in one transaction. */
async function save(vm: BareVm, mode: MemoryMode): Promise<Saved> {
	const folder = temporaryFolder();
	const file = path.join(folder, 'memory.zst');
	const receiver = await receiveMemory({folder}, file);
	onTestFinished(() => receiver.close());
	let at: Pick<Saved, 'count' | 'ram'> | undefined;
	const memory = await saveMemory({
		qmp: vm.qmp,
		mode,
		mark: await markFor(vm),
		receiver,
		liveMs: 60_000,
		cut: async () => {
			at = {count: await countIn(vm), ram: await ramOf(vm)};
			await overlay(vm);
		},
		onSwitching: () => Promise.resolve(),
		onProgress: () => undefined,
		watchers$: [],
	});
	return {file, memory, images: [vm.file('vda'), vm.file('vdb')], ...at!};
}

async function overlay(vm: BareVm): Promise<void> {
	for (const {name} of COUNTING_DISKS) {
		const file = path.join(vm.dir, `${name}.over`);
		qemuImg('create', '-f', 'qcow2', '-F', 'qcow2', '-b', vm.file(name), file);
		await vm.qmp.execute('blockdev-add', {
			'driver': 'qcow2',
			'node-name': `${name}-over`,
			'file': {driver: 'file', filename: file},
			'backing': null,
		});
	}
	await executeAny(vm.qmp, 'transaction', {
		actions: COUNTING_DISKS.map(({name}, index) => ({
			type: 'blockdev-snapshot',
			data: {node: PLACES[index], overlay: `${name}-over`},
		})),
	});
}

async function ramOf(vm: BareVm): Promise<string> {
	const file = path.join(vm.dir, 'ram');
	await executeAny(vm.qmp, 'pmemsave', {val: 0, size: RAM_MIB << 20, filename: file});
	const hash = createHash('sha256').update(fs.readFileSync(file)).digest('hex');
	fs.rmSync(file);
	return hash;
}

/** On fresh overlays over what the disks were at the cut. */
async function restore({file, memory, images}: Saved): Promise<BareVm> {
	const folder = temporaryFolder();
	const disks = COUNTING_DISKS.map((disk, index) => {
		const image = path.join(folder, `${disk.name}.again`);
		qemuImg('create', '-f', 'qcow2', '-F', 'qcow2', '-b', images[index]!, image);
		return {...disk, image};
	});
	const vm = await startCountingVm({args: ['-m', String(RAM_MIB), '-incoming', 'defer']}, disks);
	const sender = await openMemory({folder}, file, memory);
	onTestFinished(() => sender.close());
	await loadMemory({qmp: vm.qmp, schema: await QmpSchema.read(vm.qmp), sender, watchers$: []});
	return vm;
}

async function countsOn(vm: BareVm, from: number): Promise<void> {
	expect((await vm.qmp.execute('query-status')).status).toBe('running');
	await countReaches(vm, from + 10);
}

async function expectDisks(vm: BareVm, images: readonly [string, string]): Promise<void> {
	await vm.qmp.execute('stop');
	expect(disagreement(await countIn(vm), images)).toEqual([]);
}

test.each(['live', 'stop'] as const)(
	'what is saved %s goes on in a new QEMU where it was, on disks of the same instant',
	async mode => {
		const vm = await startCountingVm({args: ['-m', String(RAM_MIB)]});
		await countReaches(vm, 30);
		const saved = await save(vm, mode);
		await countsOn(vm, saved.count);
		expect(saved.memory.pausedMs).toBeGreaterThan(0);
		expect(disagreement(saved.count, saved.images)).toEqual([]);
		expect(saved.memory).toMatchObject(plainOf(saved.file));

		const again = await restore(saved);
		expect((await again.qmp.execute('query-status')).status).toBe('paused');
		expect({count: await countIn(again), ram: await ramOf(again)}).toEqual({count: saved.count, ram: saved.ram});
		await again.qmp.execute('cont');
		await countsOn(again, saved.count);
		await expectDisks(again, [again.file('vda'), again.file('vdb')]);
		await expectDisks(vm, [path.join(vm.dir, 'vda.over'), path.join(vm.dir, 'vdb.over')]);
	},
);

function plainOf(file: string): Partial<MemoryFile> {
	const stored = fs.readFileSync(file);
	const plain = zlib.zstdDecompressSync(stored);
	const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
	return {sha256: sha256(stored), storedBytes: stored.length, plainSha256: sha256(plain), plainBytes: plain.length};
}

test('a VM whose devices cannot be saved is refused, with their name', async () => {
	const vm = await startCountingVm({
		args: ['-object', 'memory-backend-ram,id=m1,size=1M,share=on', '-device', 'ivshmem-plain,memdev=m1'],
	});
	await expect(requireMigratable(vm.qmp)).rejects.toThrow(/cannot be saved: .*ivshmem/);
});
