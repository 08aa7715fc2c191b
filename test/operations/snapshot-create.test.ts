import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {qemuImg} from '../repository/fixture.ts';
import {contentOf, expectFrozen, finishedSnapshot, snapshotOf, snapshotRequest, topNodes} from './snapshots.ts';
import {WrittenVm} from './written-vm.ts';

const MIB = 1024 * 1024;

beforeEach(() => {
	ownRuntimeFolder();
});

test.each([{iothread: false}, {iothread: true}])(
	'a snapshot leaves what the disks held in the bases, and the guest writes to overlays ($iothread)',
	async ({iothread}) => {
		const written = await new WrittenVm([
			{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2', iothread},
			{name: 'vdb', sizeBytes: 4 * MIB + 512, fill: 0xbb, format: 'raw', iothread},
		]).start();
		for (const disk of ['vda', 'vdb']) await written.writeAround(disk);
		const held = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
		const first = finishedSnapshot(await snapshotOf(snapshotRequest(written.vm, {snapshot: 'first'})));
		for (const disk of ['vda', 'vdb']) await written.writeAround(disk);
		expectFrozen(first, held);
		expect(fs.readdirSync(path.join(written.folder, 'web.snapshots'))).toEqual(['first']);
		const later = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
		const second = finishedSnapshot(await snapshotOf(snapshotRequest(written.vm)));
		expect(second.manifest.name).toMatch(/^\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}Z$/);
		for (const disk of ['vda', 'vdb']) await written.writeAround(disk);
		expectFrozen(first, held);
		expectFrozen(second, later);
		expect(fs.readdirSync(written.folder).sort()).toEqual([
			`vda.${second.manifest.name}.qcow2`,
			'vda.first.qcow2',
			'vda.qcow2',
			`vdb.${second.manifest.name}.qcow2`,
			'vdb.first.qcow2',
			'vdb.raw',
			'web.snapshots',
		]);
		const nodes = await topNodes(written.vm);
		await written.quit();
		for (const {name, overlay} of second.manifest.disks) {
			expect(nodes.get(name)).toBe(overlay!.node);
			expect(contentOf(overlay!.file).equals(written.contents.get(name)!)).toBe(true);
			expect(qemuImg('check', '-f', 'qcow2', overlay!.file)).toContain('No errors');
			expect(JSON.parse(qemuImg('info', '--output=json', overlay!.file))).toMatchObject({
				'backing-filename': path.join(written.folder, `${name}.first.qcow2`),
				'backing-filename-format': 'qcow2',
				'format-specific': {data: {'compression-type': 'zstd'}},
			});
		}
		expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
	},
);
