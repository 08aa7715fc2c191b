import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {listQemuProcesses, processServing, reachableSocket} from '../../src/host/processes.ts';
import {startQemu} from '../support/real-qemu.ts';
import {fakeProc, temporaryFolder} from './fake-proc.ts';
import {listenOn} from './listening.ts';

test('a running QEMU is listed as it was started, and not once it has ended', async () => {
	const qemu = await startQemu('-name', 'a b,,c');
	const find = async () => (await listQemuProcesses()).find(({pid}) => pid === qemu.pid);
	const found = await find();
	expect(found).toMatchObject({cwd: qemu.dir, uid: process.getuid!()});
	expect(path.basename(found!.exe!)).toMatch(/^qemu/);
	expect(found!.argv).toEqual(expect.arrayContaining(['-name', 'a b,,c', 'unix:qmp.sock,server=on,wait=off']));
	expect(found!.startTicks).toBeGreaterThan(0);
	await qemu.kill();
	expect(await find()).toBeUndefined();
});

test('each of several QEMUs that bound the same relative name is found behind its own socket', async () => {
	const [one, two] = [await startQemu(), await startQemu()];
	expect(await processServing(one.qmpPath)).toMatchObject({pid: one.pid, uid: process.getuid!()});
	expect(await processServing(two.qmpPath)).toMatchObject({pid: two.pid});
	expect((await processServing(two.secondQmpPath))?.argv).toContain('unix:second-qmp.sock,server=on,wait=off');
});

test('another program is found behind its socket, through links too', async () => {
	const folder = temporaryFolder();
	await listenOn(path.join(folder, 'real/a b.sock'));
	fs.symlinkSync('real', path.join(folder, 'link'));
	expect(await processServing(path.join(folder, 'link/a b.sock'))).toMatchObject({pid: process.pid});
	expect(await processServing(path.join(folder, 'real/other.sock'))).toBeUndefined();
});

test('programs are told by their name; what vanishes or is forbidden is passed over', async () => {
	const proc = fakeProc([
		{pid: 1, argv: ['/sbin/init'], exe: '/sbin/init'},
		{pid: 2, argv: []},
		{pid: 10, argv: ['/usr/bin/kvm', '-S'], exe: '/usr/bin/qemu-system-x86_64', uid: 64055, cwd: '/'},
		{pid: 11, argv: ['qemu-system-aarch64']},
		{pid: 12, argv: ['vm1'], exe: '/opt/bin/qemu-system-riscv64 (deleted)'},
		{pid: 13, argv: ['/usr/libexec/qemu-kvm']},
		{pid: 14, argv: ['qemu-storage-daemon'], exe: '/usr/bin/qemu-storage-daemon'},
		{pid: 15, argv: ['qemu-ga'], exe: '/usr/bin/qemu-ga'},
		{pid: 16, argv: ['sh', '-c', 'qemu-system-x86_64'], exe: '/bin/sh'},
		{pid: 17, argv: [], exe: '/usr/bin/qemu-system-x86_64'},
	]);
	fs.mkdirSync(path.join(proc, '18'));
	const found = await listQemuProcesses(proc);
	expect(found.map(({pid}) => pid)).toEqual([10, 11, 12, 13]);
	expect(found[0]).toEqual({
		pid: 10,
		argv: ['/usr/bin/kvm', '-S'],
		exe: '/usr/bin/qemu-system-x86_64',
		cwd: '/',
		uid: 64055,
		startTicks: 1000,
	});
	expect(found[1]).toMatchObject({exe: undefined, cwd: undefined});
	expect(found[2]).toMatchObject({exe: '/opt/bin/qemu-system-riscv64'});
});

test('of several that hold a socket, the QEMU serves it', async () => {
	const held = {fds: {3: 77}};
	const proc = fakeProc(
		[
			{pid: 1, argv: ['/sbin/init'], ...held},
			{pid: 10, argv: ['qemu-system-x86_64'], ...held},
		],
		{77: '/run/qmp.sock'},
	);
	expect(await processServing('/run/qmp.sock', proc)).toMatchObject({pid: 10});
});

test('a name that was bound twice belongs to the process that started last, whatever the inodes', async () => {
	const proc = fakeProc(
		[
			{pid: 10, argv: ['qemu-system-x86_64'], fds: {3: 100}},
			{pid: 11, argv: ['qemu-system-x86_64'], fds: {3: 99}},
			{pid: 12, argv: ['qemu-system-x86_64'], fds: {3: 98}},
		],
		{100: '/run/qmp.sock', 99: '/run/qmp.sock', 98: '/run/other/qmp.sock'},
	);
	expect(await processServing('/run/qmp.sock', proc)).toMatchObject({pid: 11});
});

test('whose socket it is stays open where descriptors may not be read', async () => {
	const proc = fakeProc([], {77: '/run/qmp.sock'});
	expect(await processServing('/run/qmp.sock', proc)).toBeUndefined();
});

test("a relative path is taken in the process's folder", async () => {
	const folder = temporaryFolder();
	await listenOn(path.join(folder, 'vm/qmp.sock'));
	const proc = fakeProc([
		{pid: 10, argv: ['kvm'], cwd: path.join(folder, 'vm')},
		{pid: 11, argv: ['kvm']},
	]);
	const [known, unknown] = await listQemuProcesses(proc);
	expect(await reachableSocket(known!, 'qmp.sock', proc)).toBe(path.join(folder, 'vm/qmp.sock'));
	expect(await reachableSocket(known!, 'gone.sock', proc)).toBeUndefined();
	expect(await reachableSocket(unknown!, 'qmp.sock', proc)).toBeUndefined();
});

test('a socket inside a container is reached through its root, even if the host has one of that name', async () => {
	const folder = temporaryFolder();
	const root = path.join(folder, 'root');
	const socket = path.join(folder, 'qmp.sock');
	await listenOn(socket);
	await listenOn(path.join(root, 'qmp.sock'));
	const proc = fakeProc([
		{pid: 10, argv: ['kvm'], root, cwd: '/', mounts: 'mnt:[2]'},
		{pid: 11, argv: ['kvm'], root, cwd: '/'},
	]);
	const [contained, chrooted] = await listQemuProcesses(proc);
	expect(await reachableSocket(contained!, '/qmp.sock', proc)).toBe(path.join(proc, '10/root/qmp.sock'));
	expect(await reachableSocket(contained!, socket, proc)).toBeUndefined();
	expect(await reachableSocket(chrooted!, '/qmp.sock', proc)).toBe(path.join(proc, '11/root/qmp.sock'));
	expect(await reachableSocket(chrooted!, socket, proc)).toBe(socket);
});
