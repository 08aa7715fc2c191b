import {expect, test} from 'vitest';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {runsInside, unwindInside} from '../../src/operations/unwind.ts';
import {executeAny, inside, openQmp} from '../jobs/bare-vm.ts';
import {prepareCopies} from '../jobs/nodes.ts';
import {startQemu} from '../support/real-qemu.ts';

const MIB = 1024 * 1024;

async function prepare() {
	const {qmpPath} = await startQemu();
	return openQmp(qmpPath);
}

function nullNode(name: string) {
	return {'driver': 'null-co', 'node-name': name, 'size': MIB};
}

test('removes jobs and nodes of one run, whatever lies upon whatever, and nothing else', async () => {
	const qmp = await prepare();
	await qmp.execute('blockdev-add', nullNode('qsc-aaaaaa-vda-file'));
	await qmp.execute('blockdev-add', {
		'driver': 'raw',
		'node-name': 'qsc-aaaaaa-vda-middle',
		'file': 'qsc-aaaaaa-vda-file',
	});
	await qmp.execute('blockdev-add', {
		'driver': 'raw',
		'node-name': 'qsc-aaaaaa-vda-above',
		'file': 'qsc-aaaaaa-vda-middle',
	});
	await qmp.execute('blockdev-add', nullNode('qsc-bbbbbb-vda-target'));
	await qmp.execute('blockdev-add', nullNode('qsc-like'));
	const actions = await prepareCopies(qmp, [
		{id: 'qsc-aaaaaa-vda', sizeBytes: 8 * MIB, speed: 1},
		{id: 'theirs', sizeBytes: 8 * MIB, speed: 1},
	]);
	await qmp.execute('transaction', {actions});
	expect(await runsInside(qmp)).toEqual(new Set(['aaaaaa', 'bbbbbb']));

	const done = await unwindInside(qmp, await QmpSchema.read(qmp), 'aaaaaa');
	expect(done.toSorted()).toEqual([
		'job qsc-aaaaaa-vda',
		'node qsc-aaaaaa-vda-above',
		'node qsc-aaaaaa-vda-file',
		'node qsc-aaaaaa-vda-middle',
		'node qsc-aaaaaa-vda-source',
		'node qsc-aaaaaa-vda-target',
	]);
	expect(await inside(qmp)).toEqual({
		jobs: ['theirs'],
		nodes: ['qsc-bbbbbb-vda-target', 'qsc-like', 'theirs-filter', 'theirs-source', 'theirs-target'],
	});
	expect(await unwindInside(qmp, await QmpSchema.read(qmp), 'aaaaaa')).toEqual([]);
});

test('says what is still in use, and does not end what another program has on it', async () => {
	const qmp = await prepare();
	await qmp.execute('blockdev-add', nullNode('qsc-aaaaaa-vda-target'));
	await qmp.execute('blockdev-add', nullNode('qsc-aaaaaa-vdb-target'));
	await executeAny(qmp, 'blockdev-add', {'driver': 'raw', 'node-name': 'theirs', 'file': 'qsc-aaaaaa-vda-target'});
	await expect(unwindInside(qmp, await QmpSchema.read(qmp), 'aaaaaa')).rejects.toMatchObject({
		message: 'QEMU still uses qsc-aaaaaa-vda-target, left by run aaaaaa',
		hint: expect.stringContaining('Another program') as string,
	});
	expect((await inside(qmp)).nodes).toEqual(['qsc-aaaaaa-vda-target', 'theirs']);
});
