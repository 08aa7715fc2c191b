import {execFileSync} from 'node:child_process';
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {capabilitiesOf} from '../../src/block/probe.ts';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import {readUncoveredDevices} from '../../src/block/uncovered-devices.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import type {QmpBlockdevBackup} from '../../src/qmp/schema.ts';
import {startQemu} from '../support/real-qemu.ts';

function images(): string {
	const dir = mkdtempSync(join(tmpdir(), 'quiesce-graph-'));
	onTestFinished(() => {
		rmSync(dir, {recursive: true});
	});
	const create = (...args: string[]) => execFileSync('qemu-img', ['create', '-q', ...args], {cwd: dir});
	create('-f', 'raw', 'base.raw', '4M');
	create('-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'vda.qcow2');
	create('-f', 'raw', 'vdb.raw', '4M');
	return dir;
}

test('a real QEMU tells its graph, also while a backup runs, what it can do, and what no backup covers', async () => {
	const dir = images();
	const {qmpPath} = await startQemu(
		...['-M', 'q35', '-S', '-object', 'iothread,id=io0'],
		...['-blockdev', `driver=qcow2,node-name=vda-node,file.driver=file,file.filename=${dir}/vda.qcow2`],
		...['-device', 'virtio-blk-pci,id=vda,drive=vda-node,iothread=io0'],
		...['-drive', `if=none,id=second,format=raw,file=${dir}/vdb.raw`],
		...['-device', 'virtio-blk-pci,drive=second,share-rw=on'],
		...['-fsdev', `local,id=folder,path=${dir},security_model=none`],
		...['-device', 'virtio-9p-pci,id=share,fsdev=folder,mount_tag=share'],
	);
	const qmp = await QmpConnection.open({unix: qmpPath});
	onTestFinished(() => qmp.close());
	const schema = await QmpSchema.read(qmp);

	const {disks} = await readBlockGraph(qmp, schema);
	expect(disks).toMatchObject([
		{name: 'second', backend: 'second', shared: true, medium: {format: 'raw', filename: `${dir}/vdb.raw`}},
		{name: 'vda', deviceType: 'virtio-blk-device', iothread: 'io0', shared: false, medium: {filters: []}},
	]);
	const vda = disks[1]!.medium!;
	expect(vda.chain.map(({driver, backingFile}) => [driver, backingFile])).toEqual([
		['qcow2', 'base.raw'],
		['raw', undefined],
	]);

	await qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'target', 'size': vda.virtualSize});
	const backup: QmpBlockdevBackup = {
		'job-id': 'job',
		'device': vda.node,
		'target': 'target',
		'sync': 'full',
		'filter-node-name': 'filter',
		'auto-finalize': false,
		'auto-dismiss': false,
		'on-source-error': 'report',
		'on-target-error': 'report',
		'speed': 1,
	};
	await qmp.execute('transaction', {actions: [{type: 'blockdev-backup', data: backup}]});
	const during = (await readBlockGraph(qmp, schema)).disks;
	expect(during.map(({name, fileName}) => [name, fileName])).toEqual(disks.map(({name, fileName}) => [name, fileName]));
	expect(during[1]!.medium).toMatchObject({rootNode: 'filter', node: 'vda-node', filters: ['filter'], bitmaps: []});

	expect(capabilitiesOf(schema, qmp.version)['copy-before-write'].available).toBe(true);
	expect(await readUncoveredDevices(qmp)).toMatchObject([{name: 'share', type: 'virtio-9p-pci'}]);
});
