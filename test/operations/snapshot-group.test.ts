import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {recover} from '../../src/operations/recover.ts';
import {createSnapshotGroup, type GroupSnapshotMessage} from '../../src/operations/snapshot-group.ts';
import {listVmSnapshots, type ListedSnapshot} from '../../src/operations/snapshot-list.ts';
import type {SnapshotRequest} from '../../src/operations/snapshot-messages.ts';
import {eventually, inside, MIB, ownRuntimeFolder, processesNaming} from '../jobs/bare-vm.ts';
import {collect} from '../jobs/collect.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {textsOf} from './recovered.ts';
import {contentOf, topNodes} from './snapshots.ts';
import {startToolAt} from './tool-at-step.ts';
import {sampled} from '../support/thorough.ts';
import {expectHeld, storedAs, WrittenVm} from './written-vm.ts';
import {WritingVm} from './writing-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const DISKS = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'},
	{name: 'vdb', sizeBytes: 4 * MIB, fill: 0xbb, format: 'qcow2'},
] as const;

async function startTwo(): Promise<{web: WritingVm; db: WritingVm}> {
	const start = (name: string) => new WritingVm(new WrittenVm(DISKS, temporaryFolder(), name)).start();
	const [web, db] = await Promise.all([start('web'), start('db')]);
	return {web, db};
}

type Two = Awaited<ReturnType<typeof startTwo>>;

function take(
	{web, db}: Two,
	rest: Partial<SnapshotRequest> = {},
	told: string[] = [],
): Promise<GroupSnapshotMessage[]> {
	const signal = new AbortController().signal;
	const requestOf = ({sockets}: WritingVm) => ({
		...({sockets, quiesce: 'require', freezeTimeoutMs: 5_000, ...rest} as const),
		tell: (text: string) => told.push(text),
	});
	const members = new Map([
		['web', requestOf(web)],
		['db', requestOf(db)],
	]);
	return collect(createSnapshotGroup({group: 'shop', snapshot: 'one', members, signal}), () => undefined);
}

async function listed({sockets}: WritingVm): Promise<readonly ListedSnapshot[]> {
	return (await listVmSnapshots({sockets, signal: new AbortController().signal, tell: () => undefined})).snapshots;
}

function recovery({sockets: {qmp}}: WritingVm): Promise<string[]> {
	return textsOf(recover({sockets: {qmp}, signal: new AbortController().signal, tell: () => undefined}));
}

/** All that a group must leave as it was. */
async function stateOf({written: {vm, folder}}: WritingVm): Promise<object> {
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	return {
		inside: await inside(vm.qmp),
		tops: await topNodes(vm),
		bitmaps: nodes.flatMap(node =>
			(node['dirty-bitmaps'] ?? []).map(({name}) => `${node['node-name'] ?? ''} ${name ?? ''}`),
		),
		files: fs.readdirSync(folder).sort(),
		internal: DISKS.map(({name}) => qemuImg('snapshot', '-U', '-l', path.join(folder, `${name}.qcow2`))),
		runs: fs.readdirSync(process.env['QUIESCE_RUNTIME_DIR']!),
	};
}

/** That the next backup is an increment with the right content, and then that the images alone have all. */
async function expectWhole(vm: WritingVm, repository: string): Promise<void> {
	const {written} = vm;
	await vm.pause();
	const point = await written.back(repository);
	for (const {name} of DISKS) expect(storedAs(point, name).kind).toBe('incremental');
	expectHeld(point);
	await written.quit();
	for (const {name} of DISKS) {
		const image = path.join(written.folder, `${name}.qcow2`);
		expect(contentOf(image).equals(written.contents.get(name)!), name).toBe(true);
		expect(qemuImg('check', '-f', 'qcow2', image)).toContain('No errors');
	}
}

async function backBoth({web, db}: Two, repository: string): Promise<void> {
	for (const vm of [web, db]) {
		await vm.pause();
		await vm.written.back(repository);
		vm.write();
	}
}

/** As another program may, between our look at the VM and the cut: the transaction then fails. */
async function spoil({written: {vm}}: WritingVm): Promise<void> {
	const nodes = await vm.qmp.execute('query-named-block-nodes', {flat: true});
	const overlay = nodes.find(({file, drv}) => drv === 'qcow2' && file.includes('vdb.one.qcow2'))!;
	await vm.qmp.execute('blockdev-del', {'node-name': overlay['node-name']!});
}

test.each(['external', 'internal'] as const)(
	'two writing VMs are cut together (%s), and each snapshot tells of the other',
	async kind => {
		const both = await startTwo();
		const before = await Promise.all([both.web, both.db].map(stateOf));
		const planned = await take(both, {kind, dryRun: true});
		expect(planned.map(message => message.kind)).toEqual(['planned', 'planned']);
		expect(await Promise.all([both.web, both.db].map(stateOf))).toEqual(before);
		const last = (await take(both, {kind})).at(-1);
		if (last?.kind !== 'group-finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
		const {group, snapshots} = last;
		expect(group.skewSeconds).toBeGreaterThan(0);
		expect(Math.max(...group.members.map(({cutEndedSeconds}) => cutEndedSeconds!))).toBe(group.skewSeconds);
		expect(snapshots.map(({manifest}) => manifest.group)).toEqual([group, group]);
		expect(group).toMatchObject({name: 'shop', members: [{vm: 'web', consistency: 'quiesced'}, {vm: 'db'}]});
		expect(group.members.map(({folder}) => folder).sort()).toEqual(snapshots.map(({folder}) => folder).sort());
		for (const {manifest} of snapshots) {
			const {held} = manifest.vm === 'web' ? both.web : both.db;
			for (const {name, base} of manifest.disks) {
				const content = kind === 'external' ? contentOf(base.file) : contentAt(base.file, 'one');
				expect(content.equals(held.get(name)!), `${manifest.vm} ${name}`).toBe(true);
			}
		}
		expect(await listed(both.web)).toMatchObject([
			{name: 'one', state: 'whole', group: {name: 'shop'}, groupLacks: []},
		]);
		fs.rmSync(path.join(both.db.written.folder, 'db.snapshots'), {recursive: true});
		expect(await listed(both.web)).toMatchObject([{groupLacks: [{vm: 'db'}]}]);
	},
);

function contentAt(image: string, snapshot: string): Buffer {
	const raw = path.join(temporaryFolder(), 'content.raw');
	qemuImg('convert', '-U', '-f', 'qcow2', '-O', 'raw', '-l', `snapshot.name=${snapshot}`, image, raw);
	return fs.readFileSync(raw);
}

test('what cannot be for several VMs is refused', async () => {
	const both = await startTwo();
	await expect(take(both, {quiesce: 'try', memory: 'live'})).rejects.toThrow(/memory of several VMs cannot be saved/);
});

test.each([
	{kind: 'external', fault: 'its transaction fails'},
	{kind: 'external', fault: 'its QEMU is killed'},
	{kind: 'internal', fault: 'its QEMU is killed'},
] as const)('where $fault, one that was cut lies on its images again ($kind)', async ({kind, fault}) => {
	const both = await startTwo();
	const {web, db} = both;
	const repository = temporaryFolder();
	await backBoth(both, repository);
	const before = await stateOf(web);
	const beforeOfDb = await stateOf(db);
	db.onFrozen = () => (fault === 'its QEMU is killed' ? db.written.kill() : spoil(db));
	let hasCut = false;
	web.onThaw = async () => {
		const tops = await topNodes(web.written.vm);
		hasCut = kind === 'internal' || tops.get('vda') !== 'vda-node';
		// So that there is something to bring back.
		await web.written.write('vda', MIB, MIB);
	};
	const told: string[] = [];
	await expect(take(both, {kind}, told)).rejects.toThrow(/^db: /);
	expect(hasCut).toBe(true);
	expect(told.join('\n')).toContain('web: took back the snapshot one');
	expect(await stateOf(web)).toEqual(before);
	expect(await listed(web)).toEqual([]);
	expect(await recovery(web)).toEqual([]);
	await expectWhole(web, repository);
	if (fault === 'its QEMU is killed') return;
	expect(await stateOf(db)).toEqual({...beforeOfDb, runs: []});
	await expectWhole(db, repository);
});

/** Over our overlay, by another program. */
async function putTheirs({written}: WritingVm): Promise<void> {
	const filename = path.join(written.folder, 'theirs.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', filename, '8M');
	const file = {driver: 'file', filename};
	await written.execute('blockdev-add', {'driver': 'qcow2', 'node-name': 'theirs', 'backing': null, file});
	const node = (await topNodes(written.vm)).get('vda');
	await written.execute('blockdev-snapshot', {node, overlay: 'theirs'});
}

test('one that cannot be taken back is there, and it is said what the guest writes to', async () => {
	const both = await startTwo();
	const {web, db} = both;
	db.onFrozen = () => spoil(db);
	web.onThaw = () => putTheirs(web);
	const told: string[] = [];
	await expect(take(both, {}, told)).rejects.toThrow(/^db: /);
	expect(told.join('\n')).toMatch(
		/web: the snapshot one cannot be taken back, as the guest writes to \S+vda\.one\.qcow2, \S+vdb\.one\.qcow2: vda: another program has put theirs over /,
	);
	const [one] = await listed(web);
	expect(one).toMatchObject({
		name: 'one',
		state: 'whole',
		group: {name: 'shop', skewSeconds: null},
		groupLacks: [{vm: 'db'}],
	});
	for (const {name} of DISKS) {
		expect(contentOf(path.join(web.written.folder, `${name}.qcow2`)).equals(web.held.get(name)!)).toBe(true);
	}
	expect(await recovery(web)).toEqual([]);
	expect(await listed(db)).toEqual([]);
});

function startAt(step: string, {web, db}: Two) {
	const members = Object.entries({web, db}).map(([name, {sockets}]) => {
		const {qmp, agent} = sockets as unknown as Record<'qmp' | 'agent', {unix: string}>;
		return `${name}=${qmp.unix},agent=${agent.unix}`;
	});
	return startToolAt(step, [
		'snapshot',
		'create',
		...members,
		'--group',
		'shop',
		'--name',
		'one',
		'--quiesce',
		'require',
	]);
}

test('killed between the cuts of two VMs, one has its snapshot, of a group that is incomplete', async () => {
	const both = await startTwo();
	const {web, db} = both;
	db.onFrozen = () => spoil(db);
	const tool = startAt('qmp@web <- transaction #1', both);
	expect(await tool.stopped).toBe(true);
	await tool.killAlone();
	await eventually(() => processesNaming(`"tool":${tool.pid}`).length === 0, 30_000);
	expect(await listed(web)).toMatchObject([
		{
			name: 'one',
			state: 'whole',
			consistency: 'crash-consistent',
			group: {name: 'shop', skewSeconds: null},
			groupLacks: [{vm: 'db'}],
		},
	]);
	for (const {name} of DISKS) {
		expect(contentOf(path.join(web.written.folder, `${name}.qcow2`)).equals(web.held.get(name)!)).toBe(true);
	}
	expect(await listed(db)).toEqual([]);
	for (const vm of [web, db]) expect(await recovery(vm)).toEqual([]);
});

const UNDOING = ['qmp@web <- block-commit #1', 'qmp@web <- job-complete #1', 'qmp@web <- human-monitor-command #1'];

test('killed while a VM is being taken back, that is brought to its end', async () => {
	const both = await startTwo();
	const {web, db} = both;
	const repository = temporaryFolder();
	await backBoth(both, repository);
	const before = await stateOf(web);
	db.onFrozen = () => spoil(db);
	web.onThaw = () => web.written.write('vda', MIB, MIB);
	for (const step of sampled(UNDOING, 1)) {
		const tool = startAt(step, both);
		expect(await tool.stopped, step).toBe(true);
		await tool.killAlone();
		await eventually(() => processesNaming(`"tool":${tool.pid}`).length === 0, 30_000);
		expect(tool.stderr(), step).toContain('took back the snapshot one');
		expect(await stateOf(web), step).toEqual(before);
		expect(await recovery(web), step).toEqual([]);
	}
	await expectWhole(web, repository);
}, 120_000);
