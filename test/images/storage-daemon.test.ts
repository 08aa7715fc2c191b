import {execFileSync, spawnSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {expect, onTestFinished, test, vi} from 'vitest';
import {processServing} from '../../src/host/processes.ts';
import {checkImage, createImage} from '../../src/images/qemu-img.ts';
import {shrinkImage} from '../../src/images/shrink-image.ts';
import {ALIGNMENT_BYTES, type DaemonImage, StorageDaemon} from '../../src/images/storage-daemon.ts';
import {hmp, openQmp} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {failingFileSystem, FLUSH_FAILURE, TOO_MUCH} from '../sink/failing-flush.ts';
import {startQemu} from '../support/real-qemu.ts';

interface Serving {
	readonly daemon: StorageDaemon;
	readonly socket: string;
	readonly folder: string;
}

async function start(): Promise<Serving> {
	const folder = temporaryFolder();
	const socket = path.join(folder, 'n,bd.sock');
	const daemon = await StorageDaemon.start(socket);
	onTestFinished(() => daemon.kill());
	return {daemon, socket, folder};
}

async function newImage(file: string, sizeBytes: number, compression: 'none' | 'zstd' = 'none'): Promise<DaemonImage> {
	const whole = Math.ceil(sizeBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
	await createImage(file, {sizeBytes: whole, compression});
	return {name: 'disk', path: file, sizeBytes, compress: compression === 'zstd'};
}

function isAlive(pid: number): boolean {
	return fs.existsSync(`/proc/${pid}`);
}

test.each([
	{sizeBytes: 512, compression: 'none'},
	{sizeBytes: 540_672, compression: 'none'},
	{sizeBytes: 540_672, compression: 'zstd'},
	{sizeBytes: 1_049_088, compression: 'zstd'},
	{sizeBytes: 4 * 1024 * 1024, compression: 'zstd'},
] as const)(
	'an image of $sizeBytes bytes holds what was written to it ($compression)',
	async ({sizeBytes, compression}) => {
		const {daemon, socket, folder} = await start();
		const source = path.join(folder, 'source.raw');
		fs.writeFileSync(source, randomBytes(sizeBytes));
		const image = await newImage(path.join(folder, 'a,b.qcow2'), sizeBytes, compression);
		await daemon.serve(image);
		qemuImg('convert', '-n', '-f', 'raw', '-O', 'raw', source, `nbd+unix:///disk?socket=${socket}`);
		await daemon.settle(image);
		await daemon.stop();
		await shrinkImage(image.path, sizeBytes);
		expect(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', source, image.path)).toContain('identical');
		expect(await checkImage(image.path, 'qcow2')).toEqual({problems: [], warnings: []});
		expect(isAlive(daemon.pid)).toBe(false);
	},
);

test('settling an image throws when what was written does not reach the disk', async () => {
	const there = failingFileSystem();
	const {daemon, socket, folder} = await start();
	const source = path.join(folder, 'source.raw');
	fs.writeFileSync(source, randomBytes(TOO_MUCH));
	const image = await newImage(path.join(there, 'a.qcow2'), TOO_MUCH);
	await daemon.serve(image);
	// A recent qemu-img flushes too, and fails.
	const args = ['convert', '-n', '-f', 'raw', '-O', 'raw', source, `nbd+unix:///disk?socket=${socket}`];
	spawnSync('qemu-img', args);
	await expect(daemon.settle(image)).rejects.toThrow(FLUSH_FAILURE);
});

test('QEMU tells of a failed flush when an image is opened again read-only, and not when it is closed', async () => {
	const there = failingFileSystem();
	const {qmpPath} = await startQemu();
	const qmp = await openQmp(qmpPath);
	const nodes = ['told', 'untold'].map(name => ({
		'driver': 'qcow2',
		'node-name': name,
		'file': {driver: 'file', filename: path.join(there, name)},
	}));
	for (const node of nodes) {
		await createImage(node.file.filename, {sizeBytes: TOO_MUCH, compression: 'none'});
		await qmp.execute('blockdev-add', node);
		expect(await hmp(qmp, `qemu-io ${node['node-name']} "write -P 7 0 ${TOO_MUCH}"`)).toBe('');
	}
	const reopened = qmp.execute('blockdev-reopen', {options: [{...nodes[0]!, 'read-only': true}]});
	await expect(reopened).rejects.toThrow(FLUSH_FAILURE);
	await expect(qmp.execute('blockdev-del', {'node-name': 'untold'})).resolves.toEqual({});
});

test('a daemon that dies tells how, and what it said last', async () => {
	const {daemon, socket} = await start();
	process.kill(daemon.pid, 'SIGKILL');
	await expect(daemon.died).rejects.toThrow('qemu-storage-daemon ended by itself (signal SIGKILL): it said nothing');
	await daemon.kill();

	const folder = temporaryFolder();
	const real = execFileSync('sh', ['-c', 'command -v qemu-storage-daemon'], {encoding: 'utf8'}).trim();
	const usual = process.env['PATH'] ?? '';
	const script = `#!/bin/sh\nPATH='${usual}' ${real} "$@"\necho "the last word" >&2\nexit 7\n`;
	fs.writeFileSync(path.join(folder, 'qemu-storage-daemon'), script, {mode: 0o755});
	vi.stubEnv('PATH', `${folder}:${usual}`);
	onTestFinished(() => {
		vi.unstubAllEnvs();
	});
	const talking = await StorageDaemon.start(`${socket}-2`);
	onTestFinished(() => talking.kill());
	process.kill((await processServing(`${socket}-2`))!.pid, 'SIGKILL');
	await expect(talking.died).rejects.toThrow(/\(exit status 7\): (Killed\n)?the last word$/);
});

test('one that is not installed, or cannot serve its socket, is told so', async () => {
	const folder = temporaryFolder();
	await expect(StorageDaemon.start(path.join(folder, 'no', 'such.sock'))).rejects.toThrow(
		/^qemu-storage-daemon did not start: .*No such file or directory/,
	);
	vi.stubEnv('PATH', folder);
	onTestFinished(() => {
		vi.unstubAllEnvs();
	});
	await expect(StorageDaemon.start(path.join(folder, 'nbd.sock'))).rejects.toMatchObject({
		message: expect.stringMatching(/^cannot start qemu-storage-daemon: .*ENOENT/) as string,
		hint: expect.stringContaining('qemu-system-common') as string,
	});
});

test('nobody else can reach its monitor: it listens for NBD, and for nothing else', async () => {
	const {daemon, socket} = await start();
	const fds = fs.readdirSync(`/proc/${daemon.pid}/fd`).map(fd => fs.readlinkSync(`/proc/${daemon.pid}/fd/${fd}`));
	const listening = fs
		.readFileSync('/proc/net/unix', 'utf8')
		.split('\n')
		.map(line => line.split(/\s+/))
		.filter(([, , , flags, , , inode]) => flags === '00010000' && fds.includes(`socket:[${inode ?? ''}]`));
	expect(listening.map(fields => fields[7])).toEqual([socket]);
	for (const table of ['tcp', 'tcp6']) {
		const inodes = fs
			.readFileSync(`/proc/net/${table}`, 'utf8')
			.split('\n')
			.map(line => line.trim().split(/\s+/)[9]);
		expect(inodes.filter(inode => fds.includes(`socket:[${inode ?? ''}]`))).toEqual([]);
	}
});

test('a terminal that interrupts us does not interrupt it', async () => {
	const {daemon} = await start();
	// Ctrl-C goes to the terminal's foreground process group, and no other session's group is ever that.
	const columns = ['-o', 'pgid=,sid=', '-p', String(daemon.pid)];
	const [group, session] = execFileSync('ps', columns, {encoding: 'utf8'}).trim().split(/\s+/).map(Number);
	expect([group, session]).toEqual([daemon.pid, daemon.pid]);
});

test.each(['stop', 'kill'] as const)('one that hangs does not outlive %s', async end => {
	const {daemon} = await start();
	process.kill(daemon.pid, 'SIGSTOP');
	await daemon[end]();
	expect(isAlive(daemon.pid)).toBe(false);
});
