import fs from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {beforeEach, expect, test} from 'vitest';
import type {ExposedDisk, ExposeMessage, ExposeRequest} from '../../../src/operations/expose/expose-messages.ts';
import {expose} from '../../../src/operations/expose/expose.ts';
import {type BareDisk, executeAny, MIB, ownRuntimeFolder} from '../../jobs/bare-vm.ts';
import {collect} from '../../jobs/collect.ts';
import {temporaryFolder} from '../../repository/fixture.ts';
import {startToolAt} from '../tool-at-step.ts';
import {storedAs, WrittenVm} from '../written-vm.ts';
import {expectNothingLeft, requestFor} from './exposing.ts';

const APPLY = fileURLToPath(new URL('apply-changes.ts', import.meta.url));
const DISKS: readonly BareDisk[] = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2', iothread: false},
	{name: 'vdb', sizeBytes: 4 * MIB + 512, fill: 0xbb, format: 'raw', iothread: false},
];

beforeEach(() => {
	ownRuntimeFolder();
});

async function scene() {
	const written = await new WrittenVm(DISKS).start();
	return {written, repository: temporaryFolder(), copies: temporaryFolder()};
}

type Scene = Awaited<ReturnType<typeof scene>>;

/** One round of who keeps copies: they hold what the disks held at the cut, if the command has come to its end. */
async function round({written, repository, copies}: Scene, rest: Partial<ExposeRequest>, status = 0) {
	for (const {name} of DISKS) await written.writeAround(name);
	const held = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
	const command = [process.execPath, '--disable-warning=ExperimentalWarning', APPLY, copies, String(status)] as const;
	let exported: readonly ExposedDisk[] = [];
	const messages: ExposeMessage[] = await collect(
		expose(requestFor(written, {repository, command, ...rest})),
		async message => {
			if (message.kind === 'exposed') exported = message.exports;
			if (message.kind === 'cut') for (const {name} of DISKS) await written.writeAround(name, 3);
		},
	);
	for (const [disk, content] of held) {
		expect({disk, same: fs.readFileSync(path.join(copies, `${disk}.raw`)).equals(content)}).toEqual({disk, same: true});
	}
	await expectNothingLeft(written);
	return {messages, changes: exported.map(({changes}) => changes), exported};
}

async function bitmapsIn({written}: Scene): Promise<number[]> {
	const nodes = await written.vm.qmp.execute('query-named-block-nodes', {flat: true});
	return DISKS.map(
		({name}) => (nodes.find(node => node['node-name'] === `${name}-node`)?.['dirty-bitmaps'] ?? []).length,
	);
}

const LAST = 'qemu:dirty-bitmap:last';

test('copies elsewhere are kept up by what has changed alone, and a failed command changes nothing', async () => {
	const kept = await scene();
	const first = await round(kept, {commit: 'last'});
	expect(first.messages).toContainEqual({kind: 'committed', vm: 'web', name: 'last'});
	expect(first.changes).toEqual([null, null]);
	const failed = await round(kept, {since: 'last', commit: 'last'}, 3);
	expect(failed.messages.at(-1)).toMatchObject({kind: 'finished', exitStatus: 3});
	expect(failed.messages.some(({kind}) => kind === 'committed')).toBe(false);
	expect(failed.changes).toEqual([LAST, LAST]);
	// All that has changed since the first one: also what the failed one has had.
	const again = await round(kept, {since: 'last', commit: 'last'});
	expect(again.changes).toEqual([LAST, LAST]);
	for (const {changedBytes, sizeBytes} of again.exported) expect(changedBytes!).toBeLessThan(sizeBytes / 2 + MIB);
	expect(await bitmapsIn(kept)).toEqual([1, 1]);
	// Another name takes the place of what it goes on.
	const moved = await round(kept, {since: 'last', commit: 'next'});
	expect(moved.changes).toEqual([LAST, LAST]);
	expect(await bitmapsIn(kept)).toEqual([1, 1]);
	await expect(round(kept, {since: 'last'})).rejects.toThrow("of web nothing was committed as 'last'");
	expect((await round(kept, {since: 'next'})).changes).toEqual(['qemu:dirty-bitmap:next', 'qemu:dirty-bitmap:next']);
});

test('points and exposures do not get into the way of one another, and a new QEMU is noticed', async () => {
	const kept = await scene();
	const {written, repository} = kept;
	await written.back(repository);
	await round(kept, {commit: 'last'});
	const point = await written.back(repository);
	expect(storedAs(point, 'vda').kind).toBe('incremental');
	expect((await round(kept, {since: 'last', commit: 'last'})).changes).toEqual([LAST, LAST]);
	expect(storedAs(await written.back(repository), 'vdb').kind).toBe('incremental');
	await written.quit();
	await written.start();
	const {changes, messages} = await round(kept, {since: 'last', commit: 'last'});
	// QEMU keeps the bitmap of a raw disk in memory only.
	expect(changes).toEqual([LAST, null]);
	expect(messages).toContainEqual({
		kind: 'warning',
		text: expect.stringMatching(/^vdb: all of it may have changed since last: its bitmap is missing/) as string,
	});
	// One that was cleared is not believed.
	const nodes = await written.vm.qmp.execute('query-named-block-nodes', {flat: true});
	for (const bitmap of nodes.find(node => node['node-name'] === 'vda-node')?.['dirty-bitmaps'] ?? []) {
		await executeAny(written.vm.qmp, 'block-dirty-bitmap-clear', {node: 'vda-node', name: bitmap.name});
	}
	expect((await round(kept, {since: 'last', commit: 'last'})).changes).toEqual([null, LAST]);
});

test('without a command, a repository or a sound name nothing can be committed', async () => {
	const {written, repository} = await scene();
	const command = ['true'] as const;
	expect(() => expose(requestFor(written, {commit: 'last', repository}))).toThrow('without a command nobody says');
	expect(() => expose(requestFor(written, {commit: 'last', command}))).toThrow('no repository is named');
	for (const commit of ['../last', '', '2026-11-21T08-00-00Z', 'a/b']) {
		expect(() => expose(requestFor(written, {commit, command, repository}))).toThrow('cannot name what is exposed');
	}
});

test.each(['qmp <- transaction #2', 'host rename .last.json.new #1', 'qmp -> block-dirty-bitmap-remove #3'])(
	'one that is killed at %s leaves the earlier base or the new one',
	{timeout: 60_000},
	async step => {
		const kept = await scene();
		const {written, repository, copies} = kept;
		await round(kept, {commit: 'last'});
		const options = [
			'--qmp',
			written.vm.qmpPath,
			'-r',
			repository,
			'--since',
			'last',
			'--commit',
			'last',
			'--quiesce',
			'never',
		];
		const command = [process.execPath, '--disable-warning=ExperimentalWarning', APPLY, copies, '0'];
		const tool = startToolAt(step, ['expose', ...options, '--', ...command]);
		if (!(await tool.stopped)) throw new Error(`${tool.stderr()}\n${tool.steps().join('\n')}`);
		await tool.killBoth();
		const next = await round(kept, {since: 'last', commit: 'last'});
		expect(next.changes).toEqual([LAST, LAST]);
		expect(await bitmapsIn(kept)).toEqual([1, 1]);
	},
);
