import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, tap} from 'rxjs';
import {expect, test} from 'vitest';
import {takeLock} from '../../src/host/lock.ts';
import {list} from '../../src/operations/list.ts';
import {protect, unprotect} from '../../src/operations/protect.ts';
import {prune, type PruneMessage, type PruneOptions} from '../../src/operations/prune.ts';
import {readStored} from '../../src/repository/points.ts';
import {openOrCreateRepository} from '../../src/repository/repository.ts';
import {ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {
	cloningMount,
	corrupt,
	emptyRepository,
	qemuImg,
	temporaryFolder,
	temporaryMount,
} from '../repository/fixture.ts';
import {PointChain} from '../repository/point-chain.ts';
import {sampled} from '../support/thorough.ts';
import {expectWhole, leftovers, problemsIn, run, visible} from './kept-points.ts';
import {failCommitsBeyond, fillBeforeCommits, killCommitAtWrite} from './torn-commit.ts';
import {expectHeld, storedAs, type Taken, WrittenVm} from './written-vm.ts';

const MIB = 1024 * 1024;

async function newChain(options?: ConstructorParameters<typeof PointChain>[1]): Promise<PointChain> {
	return new PointChain(await emptyRepository(), options);
}

function pruneVm({repository, vm}: PointChain, rest: Omit<PruneOptions, 'repository'>): Promise<PruneMessage[]> {
	return run({repository: repository.path, vm, ...rest});
}

function verdictsOf(messages: readonly PruneMessage[]): string[] {
	return messages.flatMap(message =>
		message.kind === 'decided' ? message.points.map(({id, decision, why}) => `${decision} ${id}: ${why}`) : [],
	);
}

function textsOf(messages: readonly PruneMessage[], kind: 'warning' | 'not-merged'): string[] {
	return messages.flatMap(message => {
		if (message.kind !== kind) return [];
		return [message.kind === 'warning' ? message.text : message.why];
	});
}

const REMOVED = [
	['the full', [0]],
	['one in the middle', [1]],
	['the full and the next', [0, 1]],
	['the newest', [3]],
	['all but the newest', [0, 1, 2]],
	['every other', [0, 2]],
] as const;

test.each(sampled(REMOVED, 3))('of a chain, %s can go: the others give back what they held', async (_what, removed) => {
	const chain = await newChain();
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.on(one);
	const points = [full, one, two, await chain.on(two)];
	await expectWhole(chain);
	for (const index of removed) {
		const messages = await pruneVm(chain, {point: points[index]!.id});
		expect(messages.at(-1)).toMatchObject({kind: 'finished', removed: 1, hidden: 0, damaged: 0, failed: 0});
		await expectWhole(chain);
	}
	expect(await visible(chain)).toEqual(points.flatMap(({id}, index) => (removed.some(i => i === index) ? [] : [id])));
	expect(leftovers(chain)).toEqual([]);
});

test('rules remove points, and what was merged says what it has become', async () => {
	const chain = await newChain();
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.add({vda: one, vdb: null});
	const three = await chain.on(two);
	const messages = await pruneVm(chain, {rules: {last: 2}});
	expect(verdictsOf(messages)).toEqual([
		`keep ${three.id}: --keep-last: 1 of 2`,
		`keep ${two.id}: --keep-last: 2 of 2`,
		`remove ${one.id}: no rule keeps it`,
		`remove ${full.id}: no rule keeps it`,
	]);
	expect(messages.at(-1)).toMatchObject({kept: 2, removed: 2, hidden: 0, vms: 1, dryRun: false});
	expect((messages.at(-1) as {bytesFreed: number}).bytesFreed).toBeGreaterThan(500_000);
	expect(await visible(chain)).toEqual([two.id, three.id]);
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
	const {manifest} = await readStored(chain.repository, 'web', two.id);
	expect(manifest).toMatchObject({
		kind: 'full',
		disks: [
			{name: 'vda', kind: 'full', parent: null, layout: 'alone', backing: null, reason: null, chain: full.id},
			{name: 'vdb', kind: 'full', layout: 'alone'},
		],
	});
	expect(manifest.disks[0]!.storedBytes).toBe(fs.statSync(path.join(two.folder, 'vda.qcow2')).size);
	expect((await readStored(chain.repository, 'web', three.id)).manifest).toMatchObject({
		kind: 'incremental',
		disks: [{backing: two.id}, {backing: two.id}],
	});
});

test('a point that two others lie on stays, unseen, until only one does', async () => {
	const chain = await newChain();
	const full = await chain.on(null);
	const [one, two] = [await chain.on(full, 'differential'), await chain.on(full, 'differential')];
	const first = await pruneVm(chain, {point: full.id});
	expect(first).toContainEqual({kind: 'hidden', vm: 'web', point: full.id, dependents: [one.id, two.id]});
	expect(await visible(chain)).toEqual([one.id, two.id]);
	await expectWhole(chain);
	const second = await pruneVm(chain, {rules: {last: 5}});
	expect(second).toContainEqual({kind: 'hidden', vm: 'web', point: full.id, dependents: [one.id, two.id]});
	await pruneVm(chain, {point: one.id});
	expect(await visible(chain)).toEqual([two.id]);
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
	expect((await readStored(chain.repository, 'web', two.id)).manifest.kind).toBe('full');
});

test('a dry run says the same and changes nothing', async () => {
	const chain = await newChain();
	await chain.on(await chain.on(null));
	const files = (): string[] => fs.readdirSync(chain.repository.path, {recursive: true, encoding: 'utf8'}).sort();
	const before = files();
	const dry = await pruneVm(chain, {rules: {last: 1}, dryRun: true});
	expect(dry.at(-1)).toMatchObject({dryRun: true, kept: 1, removed: 1, bytesFreed: 0});
	expect(files()).toEqual(before);
	expect(verdictsOf(await pruneVm(chain, {rules: {last: 1}}))).toEqual(verdictsOf(dry));
});

test('without a rule, with a rule and a name, and of an unknown VM nothing is done', async () => {
	const chain = await newChain({sizes: {vda: 65_536}});
	const {id} = await chain.on(null);
	await expect(pruneVm(chain, {})).rejects.toMatchObject({code: 'USAGE', message: 'no rule says which points to keep'});
	await expect(pruneVm(chain, {rules: {daily: 0}})).rejects.toMatchObject({code: 'USAGE'});
	await expect(pruneVm(chain, {point: id, rules: {last: 1}})).rejects.toMatchObject({code: 'USAGE'});
	await expect(pruneVm(chain, {point: '2020'})).rejects.toMatchObject({code: 'USAGE'});
	await expect(pruneVm(chain, {vm: 'wbe', rules: {last: 1}})).rejects.toMatchObject({code: 'USAGE'});
	expect(await visible(chain)).toEqual([id]);
});

test('a protected point is removed neither by rules nor by its name, until it is no more', async () => {
	const chain = await newChain({sizes: {vda: 65_536}});
	const [one, two] = [await chain.on(null), await chain.on(null)];
	const options = {repository: chain.repository.path, vm: 'web', point: one.id};
	expect(await protect(options)).toEqual({vm: 'web', point: one.id, protected: true, was: 'changed'});
	expect(await protect({...options, point: one.id.slice(0, 13)})).toMatchObject({was: 'already'});
	expect(fs.statSync(path.join(one.folder, 'protected'))).toMatchObject({size: 0, mode: 0o100600});
	expect(verdictsOf(await pruneVm(chain, {rules: {last: 1}}))).toEqual([
		`keep ${two.id}: --keep-last: 1 of 1`,
		`keep ${one.id}: protected`,
	]);
	await expect(pruneVm(chain, {point: one.id})).rejects.toMatchObject({code: 'REFUSED'});
	expect(await problemsIn(chain.repository.path)).toEqual([]);
	const listed = await lastValueFrom(list({repository: chain.repository.path}));
	expect(listed).toMatchObject({point: {id: two.id, isProtected: false}});
	expect(await unprotect(options)).toMatchObject({protected: false, was: 'changed'});
	expect(await unprotect(options)).toMatchObject({was: 'already'});
	await pruneVm(chain, {rules: {last: 1}});
	expect(await visible(chain)).toEqual([two.id]);
	await expect(protect(options)).rejects.toMatchObject({code: 'USAGE'});
});

test('the newest point that is whole is kept whatever the rules say, and only its name removes it', async () => {
	const chain = await newChain({sizes: {vda: 65_536}});
	const [one, two, three] = [await chain.on(null), await chain.on(null), await chain.on(null)];
	fs.truncateSync(path.join(three.folder, 'vda.qcow2'), 1000);
	fs.rmSync(path.join(two.folder, 'point.json'));
	const messages = await pruneVm(chain, {rules: {last: 1}});
	expect(verdictsOf(messages)).toEqual([
		`keep ${three.id}: --keep-last: 1 of 1`,
		`keep ${one.id}: it is the last good point`,
	]);
	expect(textsOf(messages, 'warning')).toEqual([expect.stringMatching(`web@${two.id} is damaged, and no rule`)]);
	expect(await visible(chain)).toHaveLength(3);
	await pruneVm(chain, {point: two.id});
	await pruneVm(chain, {point: one.id});
	expect(await visible(chain)).toEqual([three.id]);
	expect(textsOf(await pruneVm(chain, {rules: {withinMs: 1, last: 1}}), 'warning')).toEqual([]);
});

test('where no point is whole, rules remove none; the last point takes the VM with it', async () => {
	const chain = await newChain({sizes: {vda: 65_536}});
	const [one, two] = [await chain.on(null), await chain.on(null)];
	for (const {folder} of [one, two]) fs.rmSync(path.join(folder, 'vda.qcow2'));
	const messages = await pruneVm(chain, {rules: {last: 1}});
	expect(textsOf(messages, 'warning')).toEqual(['no point of web is whole: none is removed']);
	for (const {id} of [one, two]) await pruneVm(chain, {point: id});
	expect(fs.readdirSync(path.join(chain.repository.path, 'vms'))).toEqual([]);
});

test('a time that is none makes a point damaged', async () => {
	const chain = await newChain({sizes: {vda: 65_536}});
	const {folder, id} = await chain.on(null);
	await chain.on(null);
	const file = path.join(folder, 'point.json');
	const text = fs.readFileSync(file, 'utf8').replace(/"cutAt": "[^"]*"/, '"cutAt": "2026-13-41T08:00:00.000Z"');
	fs.writeFileSync(file, text);
	const messages = await pruneVm(chain, {rules: {last: 1}});
	expect(textsOf(messages, 'warning')).toEqual([expect.stringContaining('its time 2026-13-41T08:00:00.000Z is none')]);
	expect(await visible(chain)).toContain(id);
});

test('a damaged image is merged with none, and all stays as it is', async () => {
	const chain = await newChain({sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.on(one);
	corrupt(path.join(one.folder, 'vda.qcow2'), fs.statSync(path.join(one.folder, 'vda.qcow2')).size - 100);
	const before = fs.readFileSync(path.join(full.folder, 'vda.qcow2'));
	const messages = await pruneVm(chain, {point: full.id});
	expect(textsOf(messages, 'not-merged')).toEqual([expect.stringMatching(/vda\.qcow2: its checksum is wrong$/)]);
	expect(messages.at(-1)).toMatchObject({removed: 1, hidden: 1, damaged: 1, failed: 0});
	expect(fs.readFileSync(path.join(full.folder, 'vda.qcow2')).equals(before)).toBe(true);
	expect(fs.readdirSync(full.folder)).not.toContain('vda.merging');
	// The damage is removed, and with it all that stood in the way.
	await pruneVm(chain, {point: two.id});
	await pruneVm(chain, {point: one.id});
	expect(fs.readdirSync(path.join(chain.repository.path, 'vms'))).toEqual([]);
});

test('nothing is removed on which a point lies that nobody can read', async () => {
	const chain = await newChain({sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.on(full, 'differential');
	fs.writeFileSync(path.join(one.folder, 'point.json'), '{');
	const messages = await pruneVm(chain, {point: full.id});
	expect(messages).toContainEqual({kind: 'hidden', vm: 'web', point: full.id, dependents: [two.id, one.id]});
	const raw = path.join(temporaryFolder(), 'raw');
	qemuImg('convert', '-O', 'raw', path.join(one.folder, 'vda.qcow2'), raw);
	expect(fs.readFileSync(raw).equals(chain.held.get(one.id)!.get('vda')!)).toBe(true);
	await pruneVm(chain, {point: one.id});
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
});

test('one that is damaged and lain on is not removed', async () => {
	const chain = await newChain({sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	fs.writeFileSync(path.join(full.folder, 'point.json'), '{');
	await expect(pruneVm(chain, {point: full.id})).rejects.toMatchObject({
		code: 'REFUSED',
		message: `web@${full.id} is damaged, and others need it: ${one.id}`,
	});
});

test.each([
	[
		'a backing file that is no point of ours',
		(image: string) => qemuImg('rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b', '/etc/passwd', image),
	],
	[
		'the image beneath as a raw disk',
		(image: string, full: string) =>
			qemuImg('rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b', `../${full}/vda.qcow2`, image),
	],
	[
		'a link in the place of the image',
		(image: string) => {
			fs.renameSync(image, `${image}.moved`);
			fs.symlinkSync(`${image}.moved`, image);
		},
	],
])('%s is not opened for writing, also where the checksums agree', async (_what, change) => {
	const chain = await newChain({sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	const image = path.join(one.folder, 'vda.qcow2');
	change(image, full.id);
	const manifest = JSON.parse(fs.readFileSync(path.join(one.folder, 'point.json'), 'utf8')) as {
		disks: {sha256: string; storedBytes: number}[];
	};
	// As somebody would who can write to the repository.
	const hash = await import('node:crypto');
	manifest.disks[0]!.sha256 = hash.createHash('sha256').update(fs.readFileSync(image)).digest('hex');
	manifest.disks[0]!.storedBytes = fs.statSync(image).size;
	const text = JSON.stringify(manifest);
	fs.writeFileSync(path.join(one.folder, 'point.json'), text);
	const sums = fs
		.readFileSync(path.join(one.folder, 'SHA256SUMS'), 'utf8')
		.replace(/\S+(?= {2}vda\.qcow2)/, manifest.disks[0]!.sha256)
		.replace(/\S+(?= {2}point\.json)/, hash.createHash('sha256').update(text).digest('hex'));
	fs.writeFileSync(path.join(one.folder, 'SHA256SUMS'), sums);
	const before = fs.readFileSync(path.join(full.folder, 'vda.qcow2'));
	const messages = await pruneVm(chain, {point: full.id});
	expect(messages.at(-1)).toMatchObject({hidden: 1});
	expect(messages.at(-1)).not.toMatchObject({damaged: 0, failed: 0});
	expect(fs.readFileSync(path.join(full.folder, 'vda.qcow2')).equals(before)).toBe(true);
});

test('a merge that is killed at any of its writes loses nothing, and the next prune goes on', async () => {
	const chain = await newChain({sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	await chain.on(await chain.on(full));
	for (let nth = 1, isKilled = true; isKilled; nth++) {
		const copy = await chain.copy();
		const fault = killCommitAtWrite(nth);
		const messages = await pruneVm(copy, {point: full.id});
		fault.mend();
		const [why] = textsOf(messages, 'not-merged');
		isKilled = why !== undefined;
		if (isKilled) expect(why).toMatch(/it was ended by SIGKILL$/);
		else expect(nth).toBeGreaterThan(8);
		await expectWhole(copy);
		const again = await pruneVm(copy, {rules: {last: 9}});
		expect(again.at(-1)).toMatchObject({removed: 0, hidden: 0, failed: 0});
		await expectWhole(copy);
		expect(leftovers(copy)).toEqual([]);
	}
});

test('what another image is being merged into is merged with no third one until that is done', async () => {
	const chain = await newChain();
	await chain.on(await chain.on(await chain.on(await chain.on(null))));
	const fault = killCommitAtWrite(3);
	expect((await pruneVm(chain, {rules: {last: 1}})).at(-1)).toMatchObject({failed: 1, hidden: 2});
	fault.mend();
	await expectWhole(chain);
	expect((await pruneVm(chain, {rules: {last: 1}})).at(-1)).toMatchObject({failed: 0, hidden: 0});
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
});

test('a merge whose writes fail loses nothing, and the next prune goes on', async () => {
	for (const share of [0, 0.4, 0.7, 1]) {
		const chain = await newChain({sizes: {vda: 2 * MIB}});
		const full = await chain.on(null);
		await chain.on(await chain.on(full));
		const {size} = fs.statSync(path.join(full.folder, 'vda.qcow2'));
		const fault = failCommitsBeyond(Math.round(size * share));
		const messages = await pruneVm(chain, {point: full.id});
		fault.mend();
		expect(textsOf(messages, 'not-merged')).toEqual([expect.stringContaining('File too large')]);
		expect(fs.readdirSync(full.folder)).toContain('vda.merging');
		await expectWhole(chain);
		expect((await pruneVm(chain, {rules: {last: 9}})).at(-1)).toMatchObject({hidden: 0, failed: 0});
		await expectWhole(chain);
		expect(leftovers(chain)).toEqual([]);
	}
});

test('a file system that is full, or becomes full while a merge writes, loses nothing', async () => {
	const mount = temporaryMount(16);
	const chain = new PointChain(await openOrCreateRepository(mount), {sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	await chain.on(full);
	const filler = path.join(mount, 'filler');
	const {bavail, bsize} = fs.statfsSync(mount);
	fs.writeFileSync(filler, Buffer.alloc(bavail * bsize - 100_000));
	const refused = await pruneVm(chain, {point: full.id});
	expect(textsOf(refused, 'not-merged')).toEqual([expect.stringMatching(/^not enough space to merge/)]);
	expect(fs.readdirSync(full.folder)).not.toContain('vda.merging');
	await expectWhole(chain);
	fs.rmSync(filler);
	const filling = fillBeforeCommits(filler);
	const failed = await pruneVm(chain, {rules: {last: 9}});
	expect(textsOf(failed, 'not-merged')).toEqual([expect.stringMatching(/No space left on device/)]);
	await expectWhole(chain);
	filling.mend();
	expect((await pruneVm(chain, {rules: {last: 9}})).at(-1)).toMatchObject({failed: 0, hidden: 0});
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
});

test('a merge waits for nobody: where an image is in use, all stays as it is', async () => {
	const chain = await newChain({sizes: {vda: 2 * MIB}});
	const full = await chain.on(null);
	await chain.on(full);
	const writer = fs.openSync(path.join(full.folder, 'vda.qcow2'), 'r+');
	const messages = await pruneVm(chain, {point: full.id});
	expect(messages.at(-1)).toMatchObject({failed: 1});
	expect(textsOf(messages, 'not-merged')).toEqual([expect.stringMatching(/is being written to by process \d+ \(/)]);
	fs.closeSync(writer);
	await pruneVm(chain, {rules: {last: 9}});
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
});

test('a VM whose points are in use is refused, or passed over among others', async () => {
	const repository = await emptyRepository();
	const [db, web] = ['db', 'web'].map(vm => new PointChain(repository, {vm, sizes: {vda: 65_536}})) as [
		PointChain,
		PointChain,
	];
	for (const chain of [db, web]) for (let nth = 0; nth < 2; nth++) await chain.on(null);
	const holder = {pid: process.pid, run: 'r1', doing: 'backup since 08:00'};
	const lock = await takeLock(`points ${repository.id} db`, 'the points', holder);
	await expect(pruneVm(db, {rules: {last: 1}})).rejects.toMatchObject({code: 'LOCKED'});
	await pruneVm(db, {rules: {last: 1}, dryRun: true});
	const messages = await run({repository: repository.path, rules: {last: 1}});
	expect(messages.at(-1)).toMatchObject({vms: 1, removed: 1, passedOver: ['db']});
	expect([await visible(db), await visible(web)].map(({length}) => length)).toEqual([2, 1]);
	await lock.release();
	expect((await run({repository: repository.path, rules: {last: 1}})).at(-1)).toMatchObject({vms: 2, removed: 1});
});

test('can be cancelled: all is whole, and the next goes on', async () => {
	const chain = await newChain();
	const full = await chain.on(null);
	const one = await chain.on(full);
	await chain.on(one);
	const stop = new AbortController();
	const messages$ = prune({
		...{repository: chain.repository.path, vm: 'web', rules: {last: 1}, signal: stop.signal},
	}).pipe(
		tap(({kind}) => {
			if (kind === 'merged') stop.abort(new Error('enough'));
		}),
	);
	await expect(lastValueFrom(messages$)).rejects.toThrow('enough');
	await expectWhole(chain);
	await pruneVm(chain, {rules: {last: 9}});
	await expectWhole(chain);
	expect(leftovers(chain)).toEqual([]);
});

test('backups go on from what was merged', async () => {
	ownRuntimeFolder();
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const points: Taken[] = [];
	for (let nth = 0; nth < 5; nth++) {
		for (const {name} of written.disks) await written.writeAround(name);
		points.push(await written.back(repository));
		await run({repository, rules: {last: 2}});
		for (const point of points.slice(-2)) expectHeld(point);
	}
	expect(points.map(point => storedAs(point, 'vda').kind)).toEqual(['full', ...Array<string>(4).fill('incremental')]);
	expect(await problemsIn(repository)).toEqual([]);
	const [vm] = fs.readdirSync(path.join(repository, 'vms'));
	expect(fs.readdirSync(path.join(repository, 'vms', vm!))).toHaveLength(2);
});

test('clones, and chains that begin with one, are pruned; none is made of a point into which another is being merged', async () => {
	ownRuntimeFolder();
	const written = await new WrittenVm().start();
	const repository = cloningMount('xfs');
	const back = async (layout?: 'chain'): Promise<Taken> => {
		for (const {name} of written.disks) await written.writeAround(name);
		return written.back(repository, layout ? {layout} : {});
	};
	await back();
	await back();
	const lower = await back();
	const upper = await back('chain');
	expect(lower.finished.manifest.disks[0]).toMatchObject({layout: 'clone'});
	const {size} = fs.statSync(path.join(lower.finished.folder, 'vda.qcow2'));
	const torn = failCommitsBeyond(size / 2);
	expect((await run({repository, rules: {last: 1}})).at(-1)).toMatchObject({hidden: 1, removed: 3});
	torn.mend();
	expectHeld(upper);
	const next = await back();
	expect(next.finished.manifest.disks[0]).toMatchObject({layout: 'chain', backing: upper.finished.manifest.id});
	for (const point of [upper, next]) expectHeld(point);
	expect((await run({repository, rules: {last: 2}})).at(-1)).toMatchObject({hidden: 0, kept: 2});
	for (const point of [upper, next]) expectHeld(point);
	const cloned = await back();
	expect(cloned.finished.manifest.disks[0]).toMatchObject({layout: 'clone', backing: upper.finished.manifest.id});
	expect(await problemsIn(repository)).toEqual([]);
	await run({repository, rules: {last: 1}});
	expectHeld(cloned);
	expect(await problemsIn(repository)).toEqual([]);
	const [vm = ''] = fs.readdirSync(path.join(repository, 'vms'));
	expect(fs.readdirSync(path.join(repository, 'vms', vm))).toHaveLength(1);
});
