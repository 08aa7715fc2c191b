import {expect, test} from 'vitest';
import {skippedByDefault, warnings} from '../../src/block/coverage.ts';
import type {Disk} from '../../src/block/graph.ts';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import {readSchema, recordedGraph, replay, repliesOf, scenariosOf, type Version, versions} from './recordings.ts';

/** One line a disk: what identifies it, then what is in it from the top down. */
const expected: Record<string, string[]> = {
	'empty': [],
	'blockdev': [
		'vda virtio-blk-device | vda-format qcow2 /vm/vda.qcow2 4M',
		'vdb virtio-blk-device | vdb-format qcow2 /vm/vdb.qcow2 8M',
	],
	'drive': [
		'virtio0 virtio-blk-device | #block142 qcow2 /vm/disk-a.qcow2 4M',
		'virtio1 virtio-blk-device | #block342 raw /vm/disk-b.raw 4M',
		'data virtio-blk-device | #block542 qcow2 /vm/disk-c.qcow2 4M',
	],
	'auto': ['ide0-hd0 ide-hd | #block142 raw /vm/disk-a.raw 4M', 'ide2-cd0 ide-cd removable | empty'],
	'scsi': [
		'sda scsi-hd | sda-format qcow2 /vm/sda.qcow2 4M',
		'cd-empty scsi-cd removable | empty',
		'cd-tools scsi-cd removable | tools-format raw /vm/tools.iso 2M read-only',
	],
	'nvme': ['nvme0 nvme | one-format qcow2 /vm/one.qcow2 4M', 'ns1 nvme-ns | two-format qcow2 /vm/two.qcow2 4M'],
	'iothread': [
		'vda virtio-blk-device iothread=io0 | vda-format qcow2 /vm/vda.qcow2 4M',
		'sda scsi-hd iothread=io1 | sda-format qcow2 /vm/sda.qcow2 4M',
	],
	'iothread-vq-mapping': ['vda virtio-blk-device iothread=io0 | vda-format qcow2 /vm/vda.qcow2 4M'],
	'read-only': ['vda virtio-blk-device | vda-format qcow2 /vm/vda.qcow2 4M read-only'],
	'share-rw': ['vda virtio-blk-device shared | vda-format raw /vm/vda.raw 4M'],
	'pflash': [
		'system.flash0 cfi.pflash01 | code-format raw /vm/code.raw 3653632 read-only',
		'system.flash1 cfi.pflash01 | vars-format raw /vm/vars.raw 540672',
		'vda virtio-blk-device | vda-format qcow2 /vm/vda.qcow2 4M',
	],
	'pflash-drive': [
		'pflash0 cfi.pflash01 | #block142 raw /vm/code.fd 3653632 read-only',
		'pflash1 cfi.pflash01 | #block342 raw /vm/vars.fd 540672',
	],
	'overlay': [
		'vda virtio-blk-device | top-format qcow2 /vm/top.qcow2 4M > middle-format > base-format',
		'vdb virtio-blk-device | vdb-format qcow2 /vm/vdb.qcow2 4M > #block142 > #block342',
	],
	'throttle': [
		'vda virtio-blk-device | (vda-throttle) vda-format qcow2 /vm/vda.qcow2 4M',
		'vdb virtio-blk-device | (vdb-copy-on-read) vdb-format qcow2 /vm/vdb.qcow2 4M',
	],
	'luks': [
		'vda virtio-blk-device | vda-format luks /vm/vda.luks 4M encrypted',
		'vdb virtio-blk-device | vdb-format qcow2 /vm/vdb.qcow2 4M encrypted',
	],
	'bitmaps': [
		'vda virtio-blk-device | vda-format qcow2 /vm/vda.qcow2 4M',
		'vdb virtio-blk-device | (#block142) vdb-format qcow2 /vm/vdb.qcow2 4M',
		'vdc virtio-blk-device | vdc-format qcow2 /vm/vdc.qcow2 4M',
	],
	'during-backup': [
		'vda virtio-blk-device | (qsc-k3f9-vda-filter) vda-format qcow2 /vm/vda.qcow2 8M',
		'vdb virtio-blk-device | vdb-format qcow2 /vm/vdb.qcow2 32M',
	],
};

const MIB = 1 << 20;

function describe({name, deviceType, iothread, shared, removable, medium}: Disk): string {
	const device = [name, deviceType, iothread && `iothread=${iothread}`, shared && 'shared', removable && 'removable'];
	const content = medium
		? [
				...medium.filters.map(filter => `(${filter})`),
				...[medium.node, medium.format, medium.filename],
				medium.virtualSize % MIB === 0 ? `${medium.virtualSize / MIB}M` : medium.virtualSize,
				medium.readOnly && 'read-only',
				medium.encrypted && 'encrypted',
				...medium.chain.slice(1).map(below => `> ${below.name}`),
			]
		: ['empty'];
	return [...device, '|', ...content].filter(Boolean).join(' ');
}

async function disksOf(version: Version, scenario: string): Promise<readonly Disk[]> {
	return (await recordedGraph(version, scenario)).disks;
}

for (const version of versions) {
	test.for(scenariosOf(version))(`QEMU ${version} shows the disks of %s`, async scenario => {
		const {disks, nodes} = await recordedGraph(version, scenario);
		expect(disks.map(describe)).toEqual(expected[scenario]);
		for (const {medium} of disks) {
			if (medium) expect(medium.chain[0]).toBe(nodes.get(medium.node));
		}
	});

	test(`QEMU ${version} shows the bitmaps that have a name, below the filter of a running job`, async () => {
		const sound = {
			dirtyBytes: 0,
			granularity: 65536,
			recording: true,
			busy: false,
			persistent: true,
			inconsistent: false,
		};
		expect((await disksOf(version, 'bitmaps')).map(disk => disk.medium!.bitmaps)).toEqual([
			[
				{...sound, name: 'disabled', granularity: 32768, recording: false, persistent: false},
				{...sound, name: 'recording', dirtyBytes: 2 * MIB},
			],
			[expect.objectContaining({name: 'in-use', recording: true, busy: true})],
			[{...sound, name: 'before-crash', recording: false, inconsistent: true}],
		]);
	});

	test(`QEMU ${version} shows the names in the images' headers apart from the nodes of the chain`, async () => {
		expect((await disksOf(version, 'overlay'))[1]!.medium!.chain).toMatchObject([
			{backing: '#block142', backingFile: 'vdb-middle.qcow2', readOnly: false},
			{backing: '#block342', backingFile: 'vdb-base.raw', readOnly: true},
			{driver: 'raw', readOnly: true},
		]);
	});

	test(`QEMU ${version} tells enough to say what a backup leaves out and what it should warn of`, async () => {
		const skipped = async (scenario: string) =>
			(await disksOf(version, scenario)).filter(skippedByDefault).map(disk => disk.name);
		expect(await skipped('scsi')).toEqual(['cd-empty', 'cd-tools']);
		expect(await skipped('auto')).toEqual(['ide2-cd0']);
		expect(await skipped('pflash')).toEqual(['system.flash0']);
		expect(await skipped('read-only')).toEqual(['vda']);
		expect(await skipped('blockdev')).toEqual([]);

		expect((await disksOf(version, 'share-rw')).flatMap(warnings)).toEqual([expect.stringContaining('share-rw')]);
		expect((await disksOf(version, 'luks')).flatMap(warnings)).toHaveLength(2);
		expect((await disksOf(version, 'iothread')).flatMap(warnings)).toEqual([]);
	});
}

test.for(versions)(
	'QEMU %s is asked the debugging command only if its nodes do not name their children',
	async version => {
		const commands: string[] = [];
		await readBlockGraph(replay(repliesOf(version, 'blockdev'), commands), readSchema(version));
		expect(commands.includes('x-debug-query-block-graph')).toBe(version !== '11.1');
	},
);
