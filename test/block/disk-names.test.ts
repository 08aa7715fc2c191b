import fc from 'fast-check';
import {expect, test} from 'vitest';
import {nameDisks} from '../../src/block/disk-names.ts';

const names = (...disks: [qdev: string | undefined, device?: string][]) =>
	nameDisks(disks.map(([qdev, device = '']) => ({qdev, device}))).map(({name}) => name);

const fileNames = (...qdevs: string[]) =>
	nameDisks(qdevs.map(qdev => ({qdev, device: ''}))).map(({fileName}) => fileName);

test('a disk is called by the id of its device, else by that of its drive, else by its QOM path', () => {
	expect(names(['/machine/peripheral/vda/virtio-backend', 'drive0'])).toEqual(['vda']);
	expect(names(['/machine/peripheral/stick/stick.0/legacy[0]', 'drive0'])).toEqual(['stick']);
	expect(names(['sda', 'drive0'])).toEqual(['sda']);
	expect(names(['/machine/peripheral-anon/device[0]/virtio-backend', 'virtio0'])).toEqual(['virtio0']);
	expect(names(['/machine/system.flash1', 'pflash1'])).toEqual(['pflash1']);
	expect(names(['/machine/system.flash1'])).toEqual(['system.flash1']);
	expect(names(['/machine/unattached/device[12]'])).toEqual(['unattached/device[12]']);
});

test('the random names that QEMU makes up are not used', () => {
	expect(names(['/machine/system.flash1', '#block142'])).toEqual(['system.flash1']);
});

test('of a device and a drive with one id the device keeps it, in whatever order they come', () => {
	const device: [string, string] = ['/machine/peripheral/data/virtio-backend', ''];
	const drive: [string, string] = ['/machine/peripheral-anon/device[0]/virtio-backend', 'data'];
	expect(names(device, drive)).toEqual(['data', 'peripheral-anon/device[0]/virtio-backend']);
	expect(names(drive, device)).toEqual(['peripheral-anon/device[0]/virtio-backend', 'data']);
});

test('two disks that nothing tells apart are refused, and so is one without any name', () => {
	expect(() => names(['vda'], ['vda'])).toThrow(/called vda/);
	expect(() => names([undefined])).toThrow(/called ""/);
});

test('file names are the names made safe', () => {
	expect(fileNames('vda', '/machine/system.flash1')).toEqual(['vda', 'system.flash1']);
	expect(fileNames('/machine/unattached/device[12]')).toEqual(['unattached_device_12_']);
	expect(fileNames('.hidden', '-rf')).toEqual(['_hidden', '_rf']);
});

test('file names differ, also where a file system does not tell capital letters', () => {
	expect(fileNames('a/b', 'a[b', 'VDA', 'vda')).toEqual(['a_b', 'a_b_2', 'VDA', 'vda_2']);
});

test('whatever the devices are called, file names are safe and differ', () => {
	const id = fc.string({minLength: 1, maxLength: 300, unit: 'binary'}).filter(text => !text.startsWith('/'));
	fc.assert(
		fc.property(fc.uniqueArray(id, {maxLength: 20}), ids => {
			const files = fileNames(...ids);
			expect(new Set(files.map(file => file.toLowerCase())).size).toBe(ids.length);
			for (const file of files) expect(file).toMatch(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,210}$/);
		}),
	);
});
