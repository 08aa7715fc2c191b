import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, tap, toArray} from 'rxjs';
import {expect, onTestFinished, test} from 'vitest';
import {restore, type RestoreMessage, type RestoreOptions} from '../../src/operations/restore.ts';
import {createPartialPoint} from '../../src/repository/partial-point.ts';
import type {Repository} from '../../src/repository/repository.ts';
import {
	corrupt,
	draft,
	emptyRepository,
	forgeSums,
	machine,
	makePoint,
	onTopOf,
	qemuImg,
	temporaryFolder,
	temporaryMount,
} from '../repository/fixture.ts';

const MIB = 1024 * 1024;

type Rest = Omit<RestoreOptions, 'repository' | 'vm'>;
type Finished = Extract<RestoreMessage, {kind: 'finished'}>;

function run(repository: Repository, rest: Rest, onMessage: (message: RestoreMessage) => void = () => undefined) {
	return lastValueFrom(restore({repository: repository.path, vm: 'web', ...rest}).pipe(tap(onMessage), toArray()));
}

async function finished(repository: Repository, rest: Rest): Promise<Finished> {
	const last = (await run(repository, rest)).at(-1);
	if (last?.kind !== 'finished') throw new Error('no result');
	return last;
}

function loopDevice(megabytes: number): string {
	const file = path.join(temporaryFolder(), 'loop');
	fs.writeFileSync(file, Buffer.alloc(megabytes * MIB, 0xff));
	const device = execFileSync('losetup', ['--find', '--show', file], {encoding: 'utf8'}).trim();
	onTestFinished(() => {
		execFileSync('losetup', ['--detach', device]);
	});
	return device;
}

test.each(['raw', 'qcow2'] as const)('brings all disks back as %s files', async format => {
	const repository = await emptyRepository();
	const {point, sources} = await makePoint(repository);
	const to = path.join(temporaryFolder(), 'new', 'folder');
	const messages = await run(repository, {to, format});
	const disks = [
		{disk: 'vda', path: `${to}/vda.${format}`, format, bytes: 4 * MIB},
		{disk: 'vdb', path: `${to}/vdb.${format}`, format, bytes: 540_672},
	];
	expect(messages[0]).toEqual({kind: 'started', point: point.manifest, disks});
	expect(messages.at(-1)).toEqual({kind: 'finished', disks, point: point.manifest, machine});
	expect(messages.flatMap(message => (message.kind === 'restored' ? message.disk : []))).toEqual(['vda', 'vdb']);
	expect(fs.readdirSync(to).sort()).toEqual([`vda.${format}`, `vdb.${format}`]);
	for (const {disk, path: file} of disks) {
		expect(qemuImg('compare', '-f', format, '-F', 'raw', file, sources.get(disk)!)).toContain('identical');
		expect(fs.statSync(file).mode & 0o777).toBe(0o600);
	}
	expect(fs.statSync(to).mode & 0o777).toBe(0o700);
});

test('the format is that of the disk, if it is one that can be written', async () => {
	const repository = await emptyRepository();
	await makePoint(repository, [65_536], {format: 'qcow2'});
	await makePoint(repository, [65_536], {format: 'rbd', now: new Date('2026-11-22T08:00:00Z')});
	await makePoint(repository, [65_536], {format: 'raw', now: new Date('2026-11-23T08:00:00Z')});
	const formatOf = async (point?: string) =>
		(await finished(repository, {to: temporaryFolder(), point})).disks[0]?.format;
	await expect(formatOf('2026-11-21')).resolves.toBe('qcow2');
	await expect(formatOf('2026-11-22')).resolves.toBe('qcow2');
	await expect(formatOf()).resolves.toBe('raw');
});

test('brings single disks back to files', async () => {
	const repository = await emptyRepository();
	const {sources} = await makePoint(repository);
	const file = path.join(temporaryFolder(), 'my disk');
	const {disks} = await finished(repository, {disks: new Map([['vdb', file]])});
	expect(disks).toEqual([{disk: 'vdb', path: file, format: 'raw', bytes: 540_672}]);
	expect(fs.readFileSync(file).equals(fs.readFileSync(sources.get('vdb')!))).toBe(true);
	expect(fs.readdirSync(path.dirname(file))).toEqual(['my disk']);
});

test('writes to a block device, zeros included, and not beyond the disk', async () => {
	const repository = await emptyRepository();
	const {sources} = await makePoint(repository);
	const device = loopDevice(5);
	await finished(repository, {disks: new Map([['vda', device]])});
	const written = fs.readFileSync(device);
	expect(written.subarray(0, 4 * MIB).equals(fs.readFileSync(sources.get('vda')!))).toBe(true);
	expect(written.subarray(4 * MIB).every(byte => byte === 0xff)).toBe(true);
});

test('refuses a block device that is too small, in use, or meant for qcow2', async () => {
	const repository = await emptyRepository();
	await makePoint(repository);
	const small = loopDevice(3);
	await expect(run(repository, {disks: new Map([['vda', small]])})).rejects.toMatchObject({
		code: 'USAGE',
		message: `${small} has ${3 * MIB} bytes, and the disk ${4 * MIB}`,
	});
	expect(fs.readFileSync(small).every(byte => byte === 0xff)).toBe(true);
	const used = loopDevice(8);
	await expect(run(repository, {disks: new Map([['vda', used]]), format: 'qcow2'})).rejects.toThrow('only raw data');
	const folder = temporaryFolder();
	execFileSync('mke2fs', ['-q', '-F', used]);
	execFileSync('mount', [used, folder]);
	onTestFinished(() => {
		execFileSync('umount', [folder]);
	});
	await expect(run(repository, {disks: new Map([['vda', used]])})).rejects.toThrow(`${used} is in use`);
});

test('overwrites nothing', async () => {
	const repository = await emptyRepository();
	await makePoint(repository);
	const folder = temporaryFolder();
	const file = path.join(folder, 'precious');
	fs.writeFileSync(file, 'mine');
	for (const rest of [{to: folder}, {to: file}, {disks: new Map([['vda', file]])}]) {
		await expect(run(repository, rest)).rejects.toMatchObject({code: 'USAGE'});
	}
	expect(fs.readdirSync(folder)).toEqual(['precious']);
	expect(fs.readFileSync(file, 'utf8')).toBe('mine');
});

test('wrong use is refused before anything is done', async () => {
	const repository = await emptyRepository();
	await makePoint(repository);
	const folder = temporaryFolder();
	const cases: [Rest, string][] = [
		[{}, 'either to a folder or'],
		[{to: folder, disks: new Map([['vda', 'x']])}, 'either to a folder or'],
		[{disks: new Map([['sda', `${folder}/a`]])}, 'has no disk sda'],
		[{disks: new Map([['vda', `${folder}/no/a`]])}, `there is no folder ${folder}/no`],
		[
			{
				disks: new Map([
					['vda', `${folder}/a`],
					['vdb', `${folder}/./a`],
				]),
			},
			'two disks cannot both',
		],
		[{to: `${repository.path}/vms/web/x`}, 'is inside the repository'],
		[{to: folder, point: '2020'}, "web has no point '2020'"],
	];
	for (const [rest, message] of cases) {
		await expect(run(repository, rest)).rejects.toMatchObject({
			code: 'USAGE',
			message: expect.stringContaining(message) as string,
		});
	}
	await expect(run(repository, {disks: new Map([['sda', 'x']])})).rejects.toMatchObject({hint: 'Its disks: vda, vdb'});
	expect(fs.readdirSync(folder)).toEqual([]);
});

test('a damaged point is refused before anything is written; its sound disks can be restored', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	const damaged = path.join(point.folder, 'vda.qcow2');
	corrupt(damaged, 200_000);
	const to = path.join(temporaryFolder(), 'new');
	await expect(run(repository, {to})).rejects.toMatchObject({
		code: 'DAMAGED',
		message: `${damaged} is damaged: its checksum is wrong`,
		hint: expect.stringContaining('quiesce verify') as string,
	});
	expect(fs.existsSync(to)).toBe(false);
	await expect(finished(repository, {disks: new Map([['vdb', to]])})).resolves.toBeDefined();
	for (const damage of [
		() => {
			fs.truncateSync(damaged, 1000);
		},
		() => {
			fs.rmSync(damaged);
		},
	]) {
		damage();
		await expect(run(repository, {to: path.join(temporaryFolder(), 'new')})).rejects.toMatchObject({code: 'DAMAGED'});
	}
});

test('an image that names a foreign file is refused before QEMU sees it', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository, [65_536]);
	qemuImg('rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b', '/etc/shadow', `${point.folder}/vda.qcow2`);
	forgeSums(point.folder);
	const to = temporaryFolder();
	const search = process.env['PATH'];
	process.env['PATH'] = '/nowhere';
	try {
		await expect(run(repository, {to})).rejects.toMatchObject({
			code: 'DAMAGED',
			message: `${point.folder}/vda.qcow2 is refused: it names the backing file "/etc/shadow"`,
		});
	} finally {
		process.env['PATH'] = search;
	}
	expect(fs.readdirSync(to)).toEqual([]);
});

test('an incremental comes back with what it is backed by, if all of that is sound', async () => {
	const repository = await emptyRepository();
	const {point: full, sources} = await makePoint(repository, [4 * MIB]);
	const partial = await createPartialPoint(repository, 'web', new Date('2026-11-22T08:00:00Z'), 'r2');
	const image = partial.path('vda.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', `../${full.id}/vda.qcow2`, image);
	execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', image]);
	const stored = {name: 'vda', file: 'vda.qcow2', sizeBytes: 4 * MIB, format: 'raw', deviceType: null};
	await partial.finish({...draft, disks: [{...stored, ...onTopOf(full.id)}]}, machine);
	const {disks: restored} = await finished(repository, {to: temporaryFolder()});
	const expected = fs.readFileSync(sources.get('vda')!).fill(7, MIB, MIB + 65_536);
	expect(fs.readFileSync(restored[0]!.path).equals(expected)).toBe(true);
	corrupt(path.join(full.folder, 'vda.qcow2'), 200_000);
	await expect(run(repository, {to: temporaryFolder()})).rejects.toThrow(
		`${full.folder}/vda.qcow2 is damaged: its checksum is wrong`,
	);
});

test('too little space is found before anything is written', async () => {
	const repository = await emptyRepository();
	await makePoint(repository, [16 * MIB]);
	const mount = temporaryMount(4);
	await expect(run(repository, {to: `${mount}/new`})).rejects.toMatchObject({
		code: 'FAILED',
		message: expect.stringMatching(/^not enough space in .*: \d+ bytes are needed, \d+ free$/) as string,
	});
	expect(fs.readdirSync(mount)).toEqual([]);
});

test('a file system that fills meanwhile fails the restore, which leaves nothing', async () => {
	const repository = await emptyRepository();
	await makePoint(repository, [4 * MIB, 16 * MIB]);
	const mount = temporaryMount(16);
	const fill = ({kind}: RestoreMessage) => {
		if (kind === 'restored') fs.writeFileSync(`${mount}/filler`, Buffer.alloc(9 * MIB));
	};
	await expect(run(repository, {to: `${mount}/new`}, fill)).rejects.toThrow(
		/^qemu-img failed on .*vdb.raw.partial: .*No space left on device/,
	);
	expect(fs.readdirSync(mount)).toEqual(['filler']);
});

test.each(['checking', 'progress', 'restored'])('aborted at %s, it leaves nothing', async kind => {
	const repository = await emptyRepository();
	await makePoint(repository, [64 * MIB, 4 * MIB]);
	const stop = new AbortController();
	const parent = temporaryFolder();
	const to = path.join(parent, 'a', 'b');
	const onMessage = (message: RestoreMessage) => {
		if (message.kind === kind) stop.abort(new Error('enough'));
	};
	await expect(run(repository, {to, signal: stop.signal}, onMessage)).rejects.toThrow('enough');
	expect(fs.readdirSync(parent)).toEqual([]);
});

test('an empty folder that was there stays when the restore fails', async () => {
	const repository = await emptyRepository();
	await makePoint(repository);
	const to = temporaryFolder();
	const stop = new AbortController();
	const onMessage = ({kind}: RestoreMessage) => {
		if (kind === 'restored') stop.abort(new Error('enough'));
	};
	await expect(run(repository, {to, signal: stop.signal}, onMessage)).rejects.toThrow('enough');
	expect(fs.readdirSync(to)).toEqual([]);
});

test('a point can be brought back with qemu-img and coreutils alone', async () => {
	const repository = await emptyRepository();
	const {point, sources} = await makePoint(repository);
	const to = temporaryFolder();
	execFileSync('sha256sum', ['--check', '--strict', 'SHA256SUMS'], {cwd: point.folder});
	for (const [disk, source] of sources) {
		qemuImg('convert', '-f', 'qcow2', '-O', 'raw', `${point.folder}/${disk}.qcow2`, `${to}/${disk}.raw`);
		execFileSync('cmp', [`${to}/${disk}.raw`, source]);
	}
});
