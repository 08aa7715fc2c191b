import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {CancelledError} from '../../src/errors.ts';
import type {SnapshotRequest} from '../../src/operations/snapshot-messages.ts';
import {eventually, executeAny, inside, MIB, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder, temporaryMount} from '../repository/fixture.ts';
import {contentOf, expectFrozen, finishedSnapshot, snapshotOf, snapshotRequest, topNodes} from './snapshots.ts';
import {WrittenVm} from './written-vm.ts';

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

test('what cannot go well is refused before anything is made', async () => {
	const folder = temporaryFolder();
	const bottom = path.join(folder, 'bottom.qcow2');
	const top = path.join(folder, 'top.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', bottom, '4M');
	qemuImg('create', '-q', '-f', 'qcow2', '-b', bottom, '-F', 'qcow2', top);
	const written = await new WrittenVm([
		{name: 'vda', sizeBytes: 4 * MIB, format: 'qcow2'},
		{name: 'vdb', sizeBytes: 4 * MIB, shared: true},
		{name: 'vdc', sizeBytes: 4 * MIB, format: 'qcow2', image: top},
	]).start();
	const {vm} = written;
	const refuse = async (rest: Partial<SnapshotRequest>, why: RegExp): Promise<void> => {
		const before = {inside: await inside(vm.qmp), files: fs.readdirSync(written.folder)};
		await expect(snapshotOf(snapshotRequest(vm, {only: ['vda'], ...rest}))).rejects.toThrow(why);
		expect({inside: await inside(vm.qmp), files: fs.readdirSync(written.folder)}).toEqual(before);
	};
	await refuse({only: undefined}, /^no snapshot can be taken of vdb: share-rw is on/);
	await refuse({only: ['vdd']}, /^this VM has no disk 'vdd'/);
	await refuse({snapshot: '../up'}, /^'\.\.\/up' cannot be the name of a snapshot/);
	await refuse({overlayTemplate: '{what}'}, /^--overlay-template: \{what\} means nothing/);
	await refuse({overlayTemplate: '/nowhere/{disk}.qcow2'}, /vda cannot be made: \/nowhere: no such file/);
	await refuse({only: ['vda', 'vdc'], overlayTemplate: `${folder}/{name}`}, /two disks would have the overlay/);
	fs.writeFileSync(path.join(written.folder, 'vda.one.qcow2'), 'theirs');
	await refuse({snapshot: 'one'}, /vda\.one\.qcow2 of vda cannot be made: it exists/);
	const mount = temporaryMount(20);
	fs.symlinkSync(mount, path.join(written.folder, 'elsewhere'));
	await refuse({overlayTemplate: 'elsewhere/{disk}.qcow2'}, /elsewhere is another file system than that of/);
	fs.rmSync(bottom);
	await refuse({only: ['vdc']}, /^no snapshot can be taken of vdc: its image .*bottom\.qcow2 is missing/);
	await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'sink', 'size': 4 * MIB});
	const mirror = {'job-id': 'theirs', 'device': 'vda-node', 'target': 'sink', 'sync': 'full', 'speed': 1};
	await executeAny(vm.qmp, 'blockdev-mirror', mirror);
	await refuse({}, /^no snapshot can be taken of vda: the job theirs is at work on it/);
	await vm.qmp.execute('job-cancel', {id: 'theirs'});
	await eventually(async () => (await vm.qmp.execute('query-jobs')).length === 0);
	const elsewhere = {
		only: ['vda'],
		overlayTemplate: `${mount}/{vm}-{disk}-{name}.qcow2`,
		folder: mount,
		snapshot: 'two',
	};
	const {manifest, folder: noted} = finishedSnapshot(await snapshotOf(snapshotRequest(vm, elsewhere)));
	expect(manifest.disks[0]!.overlay!.file).toBe(path.join(mount, 'web-vda-two.qcow2'));
	expect(noted).toBe(path.join(mount, 'web.snapshots', 'two'));
	expect(manifest.warnings).toEqual([expect.stringMatching(/another file system than its base/) as string]);
	await refuse({snapshot: 'two'}, /^a snapshot cannot be called two: there is one of that name/);
});

test('a chain of 100 images gets no further overlay', async () => {
	const folder = temporaryFolder();
	const image = (nth: number): string => path.join(folder, `${nth + 100}.qcow2`);
	qemuImg('create', '-q', '-f', 'qcow2', image(1), '1M');
	qemuImg('create', '-q', '-f', 'qcow2', '-b', image(1), '-F', 'qcow2', image(2));
	const second = fs.readFileSync(image(2), 'latin1');
	for (let nth = 3; nth <= 100; nth++) {
		fs.writeFileSync(image(nth), second.replaceAll(image(1), image(nth - 1)), 'latin1');
	}
	const written = await new WrittenVm([{name: 'vda', sizeBytes: MIB, format: 'qcow2', image: image(100)}]).start();
	await expect(snapshotOf(snapshotRequest(written.vm))).rejects.toThrow(
		/^no snapshot can be taken of vda: .*100 images/,
	);
});

test('an overlay whose name is taken meanwhile, and a cancellation, leave nothing', async () => {
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 4 * MIB, format: 'qcow2'}]).start();
	const before = {inside: await inside(written.vm.qmp), files: fs.readdirSync(written.folder)};
	const expectAsBefore = async (): Promise<void> => {
		expect({inside: await inside(written.vm.qmp), files: fs.readdirSync(written.folder)}).toEqual(before);
		expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
	};
	const gone = snapshotOf(snapshotRequest(written.vm, {snapshot: 'one'}), ({kind}) => {
		// It comes to be there only now.
		if (kind === 'planned') fs.mkdirSync(path.join(written.folder, 'vda.one.qcow2'));
	});
	await expect(gone).rejects.toThrow(/vda\.one\.qcow2/);
	fs.rmdirSync(path.join(written.folder, 'vda.one.qcow2'));
	await expectAsBefore();
	const cancelling = new AbortController();
	const cancelled = snapshotOf(snapshotRequest(written.vm, {signal: cancelling.signal}), ({kind}) => {
		if (kind === 'planned') cancelling.abort(new CancelledError());
	});
	await expect(cancelled).rejects.toThrow(CancelledError);
	await expectAsBefore();
});
