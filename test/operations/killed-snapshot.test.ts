import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {recover} from '../../src/operations/recover.ts';
import {eventually, inside, isRunning, ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {contentOf, topNodes} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';
import {sampled} from '../support/thorough.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';

let runtime: string;

beforeEach(() => {
	runtime = ownRuntimeFolder();
});

/** So many of each are killed at. */
const SAMPLE = 3;

const BEFORE = [
	'host rename .run.json.new #1',
	'host start qemu-img create #1',
	'host start qemu-img create #2',
	'qmp <- block-dirty-bitmap-add #1',
	'qmp <- blockdev-add #2',
];
const AFTER = [
	'qmp <- transaction #1',
	'qmp -> transaction #2',
	'qmp <- block-dirty-bitmap-remove #1',
	'host rename .SHA256SUMS.new #1',
	'host rm run.json #1',
];

async function scene() {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const full = await written.back(repository);
	for (const disk of ['vda', 'vdb']) await written.writeAround(disk);
	const recovery = () => {
		const sockets = {qmp: {unix: written.vm.qmpPath}};
		return textsOf(recover({sockets, signal: new AbortController().signal, tell: () => undefined}));
	};
	return {written, repository, full, recovery};
}

function create(written: WrittenVm, name: string): readonly string[] {
	return ['snapshot', 'create', '--qmp', written.vm.qmpPath, name, '--quiesce', 'never'];
}

/** What must be as it was where a snapshot has not come as far as its cut. */
async function stateOf({vm, folder}: WrittenVm): Promise<unknown> {
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	return {
		inside: await inside(vm.qmp),
		bitmaps: nodes.flatMap(node =>
			(node['dirty-bitmaps'] ?? []).map(({name}) => `${node['node-name'] ?? ''} ${name ?? ''}`),
		),
		files: fs.readdirSync(folder).sort(),
		runs: fs.readdirSync(runtime),
	};
}

test('a snapshot that is killed before its cut leaves nothing, and after it is finished', async () => {
	const {written, repository, full, recovery} = await scene();
	const before = await stateOf(written);
	for (const [nth, step] of sampled(BEFORE, SAMPLE).entries()) {
		const tool = startToolAt(step, create(written, 'one'));
		expect(await tool.stopped, step).toBe(true);
		if (nth === 1) {
			const guard = await tool.killAlone();
			await eventually(() => !isRunning(guard), 20_000);
			expect(tool.stderr()).toContain('removed the unfinished snapshot one');
		} else {
			await tool.killBoth();
			expect((await recovery()).join('\n'), step).toContain('removed the unfinished snapshot one');
		}
		expect(await stateOf(written), step).toEqual(before);
	}
	let last = full;
	for (const [nth, step] of sampled(AFTER, SAMPLE).entries()) {
		const name = `after-${nth}`;
		const held = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
		const bases = [...(await images(written)).values()];
		const tool = startToolAt(step, create(written, name));
		expect(await tool.stopped, step).toBe(true);
		// The guest goes on before anybody comes to mend it.
		for (const disk of ['vda', 'vdb']) await written.writeAround(disk);
		if (nth === 1) {
			const guard = await tool.killAlone();
			await eventually(() => !isRunning(guard), 20_000);
		} else {
			await tool.killBoth();
			expect((await recovery()).join('\n'), step).toContain(`finished the snapshot ${name}`);
		}
		expect(fs.readdirSync(path.join(written.folder, 'web.snapshots')), step).toContain(name);
		expect(fs.readdirSync(path.join(written.folder, 'web.snapshots', name)).sort()).toEqual([
			'SHA256SUMS',
			'machine.json',
			'snapshot.json',
		]);
		for (const [index, content] of [...held.values()].entries()) {
			expect(contentOf(bases[index]!).equals(content), step).toBe(true);
		}
		const point = await written.back(repository);
		expect(storedAs(point, 'vda'), step).toMatchObject({kind: 'incremental', parent: last.finished.manifest.id});
		expectHeld(point);
		last = point;
		expect(fs.readdirSync(runtime), step).toEqual([]);
	}
	expect(await recovery()).toEqual([]);
}, 300_000);

/** The file of each disk. */
async function images({vm}: WrittenVm): Promise<Map<string, string>> {
	const tops = await topNodes(vm);
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	const fileOf = (top: string): string => nodes.find(node => node['node-name'] === top)!.image.filename;
	return new Map(
		['vda', 'vdb'].map(disk => {
			const file = fileOf(tops.get(disk)!);
			return [
				disk,
				file.startsWith('json:') ? (JSON.parse(file.slice(5)) as {file: {filename: string}}).file.filename : file,
			];
		}),
	);
}

test('an overlay that has been written to is never removed', async () => {
	const {written, recovery} = await scene();
	const tool = startToolAt('qmp <- transaction #1', create(written, 'one'));
	expect(await tool.stopped).toBe(true);
	await tool.killBoth();
	await written.writeAround('vda');
	// The script that starts the VM does not know of the overlays.
	await written.quit();
	await written.start();
	const found = (await recovery()).join('\n');
	expect(found).toMatch(/left the unfinished snapshot one .*vda\.one\.qcow2 has been written to/);
	expect(fs.readdirSync(written.folder)).toEqual(expect.arrayContaining(['vda.one.qcow2', 'vdb.one.qcow2']));
	// Started as it should be, it is finished.
	await written.quit();
	const overlay = (name: string) => path.join(written.folder, `${name}.one.qcow2`);
	await written.start(written.disks.map(disk => ({...disk, image: overlay(disk.name)})));
	expect(await recovery()).toEqual([expect.stringContaining('finished the snapshot one') as string]);
}, 120_000);
