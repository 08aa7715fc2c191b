import {expect, test} from 'vitest';
import {uncoveredDevices} from '../../src/block/uncovered-devices.ts';

const covered = ['virtio-blk-pci', 'scsi-hd', 'virtio-scsi-pci', 'nvme', 'vhost-user-gpu-pci', 'vhost-vsock-pci'];
const uncovered = [
	'vfio-pci',
	'vhost-user-blk-pci',
	'vhost-user-blk-pci-transitional',
	'vhost-user-fs-pci',
	'vhost-scsi-pci',
	'vhost-user-scsi-pci',
	'vhost-vdpa-device-pci',
	'virtio-9p-pci',
	'usb-mtp',
	'nvdimm',
	'virtio-pmem-pci',
	'uefi-vars-x64',
	'tpm-crb',
];

test('devices that keep data outside the block layer are told, others are not', () => {
	const properties = [...covered, ...uncovered].map((type, n) => ({name: `d${n}`, type: `child<${type}>`}));
	const found = uncoveredDevices([{path: '/machine/peripheral', properties}]);
	expect(found.map(({type}) => type)).toEqual(uncovered);
	expect(found[0]).toEqual({name: 'd6', type: 'vfio-pci', what: expect.stringContaining('NVMe') as string});
});

test('a device without an id is called by its QOM path; what is no child is no device', () => {
	const properties = [
		{name: 'type', type: 'string'},
		{name: 'device[3]', type: 'child<virtio-9p-pci>'},
		{name: 'bus', type: 'link<virtio-9p-pci>'},
	];
	expect(uncoveredDevices([{path: '/machine/peripheral-anon', properties}])).toMatchObject([
		{name: 'peripheral-anon/device[3]', type: 'virtio-9p-pci'},
	]);
});
