import {expect, test} from 'vitest';
import {backupRefusal, skippedByDefault, warnings} from '../../src/block/coverage.ts';
import {buildBlockGraph, type Disk} from '../../src/block/graph.ts';
import type {QmpBlockNode} from '../../src/qmp/schema.ts';
import {backend, node} from './recordings.ts';

function disk(type: string, root?: QmpBlockNode, shared = false): Disk {
	const devices = new Map([['sda', {type, shared}]]);
	return buildBlockGraph({backends: [backend('sda', root)], nodes: root ? [root] : [], devices}).disks[0]!;
}

const plain = node('root', 'host_device');

test('a plain disk is backed up without a word', () => {
	const sda = disk('scsi-hd', plain);
	expect([backupRefusal(sda), skippedByDefault(sda), warnings(sda)]).toEqual([undefined, undefined, []]);
});

test.for(['scsi-block', 'scsi-generic'])('%s is refused, because writes bypass QEMU', type => {
	expect(backupRefusal(disk(type, plain))).toContain(`${type} hands the guest's SCSI commands`);
});

test('an empty drive is left out, and refused when asked for', () => {
	expect(skippedByDefault(disk('ide-cd'))).toBe('the drive is empty');
	expect(backupRefusal(disk('ide-cd'))).toBe('the drive is empty');
});

test('a medium without size is refused', () => {
	const image = {'filename': '/root', 'format': 'raw', 'virtual-size': 0};
	expect(backupRefusal(disk('scsi-hd', node('root', 'raw', {}, {image})))).toContain('size of 0');
});

test('what the guest cannot change is left out, but may be asked for', () => {
	const readOnly = disk('scsi-hd', node('root', 'raw', {}, {ro: true}));
	const writableNode = disk('scsi-cd', plain);
	expect(skippedByDefault(readOnly)).toContain('read-only');
	expect(skippedByDefault(writableNode)).toContain('CD-ROM');
	expect([readOnly, writableNode].map(backupRefusal)).toEqual([undefined, undefined]);
});

test('a drive without a device is left out', () => {
	const backends = [backend(undefined, plain, 'loose')];
	const [loose] = buildBlockGraph({backends, nodes: [plain], devices: new Map()}).disks;
	expect(skippedByDefault(loose!)).toContain('no device');
});

test('shared and encrypted disks are warned of', () => {
	expect(warnings(disk('scsi-hd', node('root', 'luks', {}, {encrypted: true}), true))).toEqual([
		expect.stringMatching(/^sda: .*second VM/),
		expect.stringMatching(/^sda: .*plaintext/),
	]);
});
