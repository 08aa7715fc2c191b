import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {UsageError} from '../../src/errors.ts';
import {discover, findVm, selectVm, type DiscoveredVm} from '../../src/operations/discover.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {fakeProc, temporaryFolder} from '../host/fake-proc.ts';
import {leaveStale, listenOn} from '../host/listening.ts';
import {startQemu} from '../support/real-qemu.ts';

const vm = (overrides: Partial<DiscoveredVm>): DiscoveredVm => ({
	state: 'running',
	pid: 1,
	name: 'web',
	uuid: undefined,
	uid: 0,
	user: 'root',
	monitors: [],
	agent: undefined,
	binary: 'kvm',
	problems: [],
	...overrides,
});

const nowhere = {root: '/nonexistent'};

test('a running QEMU is found with its sockets, and its monitors stay free', async () => {
	const uuid = '3b0f6c1e-6f0e-4b53-9d3e-5a1d7c2f8e90';
	const qemu = await startQemu(
		...['-M', 'q35', '-S', '-name', 'guest=discovered,debug-threads=on', '-uuid', uuid.toUpperCase()],
		...['-device', 'virtio-serial', '-chardev', 'socket,id=qga0,path=qga.sock,server=on,wait=off'],
		...['-device', 'virtserialport,chardev=qga0,name=org.qemu.guest_agent.0'],
	);
	const found = (await discover(nowhere)).find(({pid}) => pid === qemu.pid);
	expect(found).toMatchObject({
		state: 'running',
		name: 'discovered',
		uuid,
		uid: process.getuid!(),
		monitors: [{unix: qemu.qmpPath}, {unix: qemu.secondQmpPath}],
		agent: {unix: path.join(qemu.dir, 'qga.sock')},
		problems: ['monitor cannot be used: it connects out and does not listen (no server=on)'],
	});
	expect(found!.binary).toContain('qemu-system-');
	const qmp = await QmpConnection.open(found!.monitors[0]!);
	expect(await qmp.execute('query-name')).toEqual({name: 'discovered'});
	await qmp.close();
	expect(await findVm(uuid.toUpperCase(), nowhere)).toEqual(found);
	expect(await findVm(String(qemu.pid), nowhere)).toEqual(found);
});

test('a monitor that a second QEMU took over is no longer that of the first', async () => {
	const folder = temporaryFolder();
	const socket = path.join(folder, 'shared.sock');
	const first = await startQemu('-qmp', `unix:${socket},server=on,wait=off`);
	const second = await startQemu('-qmp', `unix:${socket},server=on,wait=off`);
	const vms = await discover(nowhere);
	const monitorsOf = (wanted: number) => vms.find(({pid}) => pid === wanted)?.monitors;
	expect(monitorsOf(first.pid)).not.toContainEqual({unix: socket});
	expect(monitorsOf(second.pid)).toContainEqual({unix: socket});
	expect(vms.find(({pid}) => pid === first.pid)?.problems).toContain(
		`monitor unix:${socket} was taken over by process ${second.pid}`,
	);
});

test("Proxmox's sockets are found, live ones and stale ones, without connecting", async () => {
	const root = temporaryFolder();
	const folder = path.join(root, 'var/run/qemu-server');
	const monitor = await listenOn(path.join(folder, '100.qmp'));
	const agent = await listenOn(path.join(folder, '100.qga'));
	await listenOn(path.join(folder, '100.vnc'));
	await leaveStale(path.join(folder, '101.qmp'));
	fs.writeFileSync(path.join(folder, '102.qmp'), 'no socket');
	const found = (await discover({root})).filter(({name}) => name === '100' || name === '101');
	expect(found).toMatchObject([
		{
			state: 'running',
			pid: process.pid,
			name: '100',
			monitors: [{unix: path.join(folder, '100.qmp')}],
			agent: {unix: path.join(folder, '100.qga')},
		},
		{
			state: 'stale',
			pid: undefined,
			name: '101',
			monitors: [],
			problems: [`monitor ${folder}/101.qmp is stale: no process listens on it`],
		},
	]);
	expect([monitor.clients(), agent.clients()]).toEqual([0, 0]);
	expect(await findVm('100', {root})).toMatchObject({name: '100'});
	await expect(findVm('101', {root})).rejects.toThrow(/no running VM is called '101'; monitor .*101.qmp is stale/);
});

test('a socket in a well-known folder that a command line names is listed once', async () => {
	const root = temporaryFolder();
	const socket = path.join(root, 'run/qemu/listed-once/qmp.sock');
	fs.mkdirSync(path.dirname(socket), {recursive: true});
	const qemu = await startQemu('-name', 'listed-once', '-qmp', `unix:${socket},server=on,wait=off`);
	const vms = await discover({root});
	expect(
		vms.filter(({monitors}) => monitors.some(monitor => 'unix' in monitor && monitor.unix === socket)),
	).toMatchObject([{pid: qemu.pid}]);
	expect(vms.filter(({name}) => name === 'listed-once')).toHaveLength(1);
});

test('names of sockets in /run/qemu tell the VM and the role', async () => {
	const root = temporaryFolder();
	for (const name of ['a.qmp', 'b-qmp.sock', 'c/qmp.sock', 'c/agent.sock', 'c/console.sock', 'qga-d.sock']) {
		await leaveStale(path.join(root, 'run/qemu', name));
	}
	const stale = (await discover({root})).filter(({state}) => state === 'stale');
	expect(stale.map(({name, problems}) => [name, problems.length])).toEqual([
		['a', 1],
		['b', 1],
		['c', 2],
		['d', 1],
	]);
});

test('a stale socket is told from one that a QEMU elsewhere has by the same relative name', async () => {
	const root = temporaryFolder();
	await leaveStale(path.join(root, 'run/qemu/gone-from-here/qmp.sock'));
	const elsewhere = await startQemu();
	const vms = await discover({root});
	expect(vms.find(({pid}) => pid === elsewhere.pid)).toMatchObject({state: 'running'});
	expect(vms.filter(({name}) => name === 'gone-from-here')).toMatchObject([
		{state: 'stale', problems: [expect.stringMatching(/is stale/)]},
	]);
});

test("libvirt's monitors are named, but not offered", async () => {
	const root = temporaryFolder();
	const extra = path.join(root, 'extra.sock');
	const channel = path.join(root, 'var/run/libvirt/qemu/channel/1-db/org.qemu.guest_agent.0');
	await listenOn(extra);
	await listenOn(channel);
	const proc = fakeProc(
		[
			{
				pid: 10,
				argv: [
					'/usr/bin/qemu-system-x86_64',
					...'-name guest=web -chardev socket,id=charmonitor,fd=28,server=on -mon chardev=charmonitor,mode=control'.split(
						' ',
					),
					...`-qmp unix:${extra},server=on`.split(' '),
					...'-chardev socket,id=charchannel0,fd=27,server=on -device virtserialport,chardev=charchannel0'.split(' '),
					...`-device virtserialport,chardev=charchannel0,name=org.qemu.guest_agent.0`.split(' '),
				],
				cwd: '/',
				fds: {28: 500, 27: 501},
			},
		],
		{
			500: '/var/lib/libvirt/qemu/domain-1-web/monitor.sock',
			501: '/run/libvirt/qemu/channel/1-web/org.qemu.guest_agent.0',
			502: channel,
		},
	);
	const [web, db] = await discover({root, proc});
	expect(web).toMatchObject({
		name: 'web',
		monitors: [{unix: extra}],
		agent: undefined,
		problems: [
			expect.stringMatching(/^monitor \/var\/lib\/libvirt.*managed by libvirt/),
			expect.stringMatching(/^guest agent socket \/run\/libvirt.*managed by libvirt/),
		],
	});
	expect(db).toMatchObject({name: '1-db', pid: undefined, monitors: [], agent: undefined});
	expect(db?.problems.join()).toContain('managed by libvirt');
});

test('hosts without a QEMU, or without /proc to see, have no VMs', async () => {
	expect(await discover({...nowhere, proc: fakeProc([])})).toEqual([]);
	const hidden = {...nowhere, proc: fakeProc([])};
	await expect(findVm('web', hidden)).rejects.toMatchObject({hint: expect.stringContaining('--qmp') as string});
});

test('a VM that several names fit is not guessed', () => {
	const uuid = '3b0f6c1e-6f0e-4b53-9d3e-5a1d7c2f8e90';
	const vms = [
		vm({pid: 10, name: 'web', uuid}),
		vm({pid: 11, name: 'web'}),
		vm({pid: 12, name: '10', monitors: [{unix: '/var/run/qemu-server/104.qmp'}]}),
		vm({pid: undefined, name: 'gone', state: 'stale', problems: ['stale']}),
		vm({pid: undefined, name: '12', state: 'stale'}),
	];
	expect(selectVm(vms, uuid)).toBe(vms[0]);
	expect(selectVm(vms, '11')).toBe(vms[1]);
	expect(selectVm(vms, '104')).toBe(vms[2]);
	expect(selectVm(vms, '12')).toBe(vms[2]);
	expect(() => selectVm(vms, 'web')).toThrow(UsageError);
	expect(() => selectVm(vms, 'web')).toThrow(`'web' may mean web (pid 10, uuid ${uuid}) or web (pid 11)`);
	expect(() => selectVm(vms, '10')).toThrow(/web \(pid 10.* or 10 \(pid 12/);
	expect(() => selectVm(vms, 'mail')).toThrow(UsageError);
	try {
		selectVm(vms, 'mail');
	} catch (error) {
		expect((error as UsageError).hint).toContain('web (pid 11), 10 (pid 12, unix:/var/run/qemu-server/104.qmp).');
	}
});
