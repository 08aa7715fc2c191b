import {expect, test} from 'vitest';
import {proxmoxConfig, proxmoxSlots} from '../../../src/operations/archive/proxmox-config.ts';
import type {Machine} from '../../../src/repository/machine.ts';

const MACHINE: Machine = {
	format: 1,
	name: 'web 1.example',
	uuid: '8f8f1b0e-9f0c-4d3b-8f11-0a0b0c0d0e0f',
	machineType: 'pc-q35-7.2',
	qemuVersion: '7.2.22',
	binary: 'qemu-system-x86_64',
	commandLine: [
		...['-m', '4G', '-smp', '2,sockets=1,cores=2', '-cpu', 'host,+vmx'],
		...['-device', 'virtserialport,chardev=qga0,name=org.qemu.guest_agent.0'],
		...['-device', 'virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56', '-device', 'virtio-scsi-pci,id=scsi'],
	],
	disks: [],
	capturedAt: '2026-11-21T08:00:00Z',
};

test('each disk gets a place on a bus like its own, and overflows go to SCSI', () => {
	const types = ['virtio-blk-device', 'scsi-hd', 'ide-hd', 'cfi.pflash01', 'nvme', null];
	expect(
		proxmoxSlots(
			types.map(deviceType => ({deviceType})),
			'pc-q35-7.2',
		),
	).toEqual([...['virtio0', 'scsi0', 'sata0', 'efidisk0', 'scsi1', 'scsi2']]);
	expect(proxmoxSlots([{deviceType: 'ide-hd'}], 'pc-i440fx-7.2')).toEqual(['ide0']);
	const many = proxmoxSlots(
		Array.from({length: 5}, () => ({deviceType: 'ide-hd'})),
		'pc-i440fx-7.2',
	);
	expect(many).toEqual(['ide0', 'ide1', 'ide2', 'ide3', 'scsi0']);
});

test('the configuration has what the command line says, and a line for each device', () => {
	const disks = [
		{slot: 'scsi0', sizeBytes: 32 * 1024 ** 3},
		{slot: 'efidisk0', sizeBytes: 540_672},
	];
	expect(proxmoxConfig(MACHINE, disks).split('\n')).toEqual([
		'agent: 1',
		'bios: ovmf',
		'boot: order=scsi0',
		'cores: 2',
		'cpu: host',
		'efidisk0: local:drive-efidisk0,size=528K',
		'machine: pc-q35-7.2',
		'memory: 4096',
		'name: web-1-example',
		'net0: virtio=52:54:00:12:34:56,link_down=1',
		'numa: 0',
		'ostype: other',
		'scsi0: local:drive-scsi0,size=33554432K',
		'scsihw: virtio-scsi-pci',
		'smbios1: uuid=8f8f1b0e-9f0c-4d3b-8f11-0a0b0c0d0e0f',
		'sockets: 1',
		'#qmdump#map:scsi0:drive-scsi0::raw:',
		'#qmdump#map:efidisk0:drive-efidisk0::raw:',
		'',
	]);
});

test.each([
	[['-m', '512'], 512, 1],
	[['-m', 'size=2G,slots=4,maxmem=8G', '-smp', 'cpus=4'], 2048, 4],
	[['-smp', 'sockets=2,cores=4'], 128, 8],
])('%j is %i MiB and %i processors', (commandLine, memory, cores) => {
	const text = proxmoxConfig({...MACHINE, commandLine}, [{slot: 'virtio0', sizeBytes: 512}]);
	expect(text).toContain(`\nmemory: ${memory}\n`);
	expect(text).toContain(`\ncores: ${cores}\n`);
});
