import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {readSettings} from '../../src/migration/settings.ts';
import {type BareVm, executeAny, inside, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {countIn, countReaches, disagreement, startCountingVm} from '../migration/counting-vm.ts';
import {finishedSnapshot, snapshotOf, snapshotRequest} from './snapshots.ts';

const LASTING = 'qsc-0123456789ab-2026-11-25T08-00-00Z-abcdef';

beforeEach(() => {
	ownRuntimeFolder();
});

async function expectUnchanged(vm: BareVm, before: unknown): Promise<void> {
	expect(await readSettings(vm.qmp)).toEqual(before);
	expect((await inside(vm.qmp)).nodes.filter(name => /^qsc-[0-9a-z]{6}-/.test(name))).toEqual([]);
	expect(fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!)).toEqual([]);
}

test.each(['live', 'stop', 'background'] as const)(
	'a snapshot with memory (%s) has disks of the same instant, and the guest goes on',
	async memory => {
		const vm = await startCountingVm({args: ['-m', '16']});
		await executeAny(vm.qmp, 'block-dirty-bitmap-add', {node: 'vda-node', name: LASTING, persistent: true});
		await countReaches(vm, 20);
		const before = await readSettings(vm.qmp);
		const {manifest, folder} = finishedSnapshot(
			await snapshotOf(snapshotRequest(vm, {snapshot: 'first', memory, quiesce: 'try'})),
		);
		await expectUnchanged(vm, before);
		const count = await countIn(vm);
		await countReaches(vm, count + 5);
		expect(manifest).toMatchObject({standstill: {of: 'vm'}, memory: {mode: memory, running: true, file: 'memory.zst'}});
		expect(fs.readdirSync(folder).sort()).toEqual(['SHA256SUMS', 'machine.json', 'memory.zst', 'snapshot.json']);
		expect(fs.readFileSync(path.join(folder, 'SHA256SUMS'), 'utf8')).toContain(
			`${manifest.memory!.sha256}  memory.zst\n`,
		);
		const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
		const overlay = nodes.find(node => node['node-name'] === manifest.disks[0]!.overlay!.node)!;
		expect(overlay['dirty-bitmaps']).toMatchObject([{name: LASTING, persistent: true, recording: true}]);
		await vm.qmp.execute('stop');
		expect(
			disagreement(await countIn(vm), [manifest.disks[0]!.overlay!.file, manifest.disks[1]!.overlay!.file]),
		).toEqual([]);
	},
);
