import {execFileSync, spawn, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {parseOwner, stateOf, thisOwner} from '../../src/repository/owner.ts';
import {createPartialPoint, listPartials, removePartial} from '../../src/repository/partial-point.ts';
import {listPoints, listVms} from '../../src/repository/points.ts';
import {openOrCreateRepository} from '../../src/repository/repository.ts';
import {verifyPoint} from '../../src/repository/verify-point.ts';
import {draft, eight, emptyRepository, full, machine, makePoint, qemuImg, temporaryFolder} from './fixture.ts';

const disk = {name: 'vda', file: 'vda.qcow2', sizeBytes: 65_536, format: 'raw', deviceType: null, ...full};

test('a finished point is whole, private and checked by sha256sum', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	const files = ['SHA256SUMS', 'machine.json', 'point.json', 'vda.qcow2', 'vdb.qcow2'];
	expect(fs.readdirSync(point.folder).sort()).toEqual(files);
	expect(fs.statSync(point.folder).mode & 0o777).toBe(0o700);
	for (const file of files.slice(0, 3)) expect(fs.statSync(path.join(point.folder, file)).mode & 0o777).toBe(0o600);
	const checked = execFileSync('sha256sum', ['-c', 'SHA256SUMS'], {cwd: point.folder, encoding: 'utf8'});
	expect(checked).toBe('machine.json: OK\npoint.json: OK\nvda.qcow2: OK\nvdb.qcow2: OK\n');
	await expect(listPartials(repository, 'web')).resolves.toEqual([]);
});

test('points of one second get suffixes, also while others are being written', async () => {
	const repository = await emptyRepository();
	const partials = await Promise.all([1, 2, 3].map(() => createPartialPoint(repository, 'web', eight, 'r')));
	expect(partials.map(({id}) => id).sort()).toEqual([
		'2026-11-21T08-00-00Z',
		'2026-11-21T08-00-00Z-2',
		'2026-11-21T08-00-00Z-3',
	]);
	for (const partial of partials) await partial.finish(draft, machine);
	expect((await createPartialPoint(repository, 'web', eight, 'r')).id).toBe('2026-11-21T08-00-00Z-4');
});

test('an abandoned point leaves nothing, and a finished one stays', async () => {
	const repository = await emptyRepository();
	const partial = await createPartialPoint(repository, 'web', eight, 'r');
	fs.writeFileSync(partial.path('vda.qcow2'), 'data');
	const outside = path.join(temporaryFolder(), 'precious');
	fs.writeFileSync(outside, 'x');
	fs.symlinkSync(path.dirname(outside), partial.path('link'));
	await partial.abandon();
	await partial.abandon();
	expect(fs.existsSync(outside)).toBe(true);
	await expect(listVms(repository)).resolves.toEqual([]);
	const second = await createPartialPoint(repository, 'web', eight, 'r');
	await second.finish(draft, machine);
	await second.abandon();
	await expect(listPoints(repository, 'web')).resolves.toHaveLength(1);
});

test('a point that is not as it was meant does not appear', async () => {
	const repository = await emptyRepository();
	const partial = await createPartialPoint(repository, 'web', eight, 'r');
	await expect(partial.finish({...draft, disks: [disk]}, machine)).rejects.toThrow('vda.qcow2 is missing');
	fs.symlinkSync('/etc/hostname', partial.path('vda.qcow2'));
	await expect(partial.finish({...draft, disks: [disk]}, machine)).rejects.toMatchObject({code: 'ELOOP'});
	await expect(partial.finish(draft, machine)).rejects.toThrow('vda.qcow2 is not part of it');
	expect(() => partial.path('../x')).toThrow('is no file of a point');
	await expect(listPoints(repository, 'web')).resolves.toEqual([]);
	const stop = AbortSignal.abort(new Error('enough'));
	fs.rmSync(partial.path('vda.qcow2'));
	await expect(partial.finish(draft, machine, {signal: stop})).rejects.toThrow('enough');
	await partial.abandon();
});

test('a later run can tell whose a partial point is', async () => {
	const repository = await emptyRepository();
	await createPartialPoint(repository, 'web', eight, 'run7');
	const [partial] = await listPartials(repository, 'web');
	expect(partial).toMatchObject({id: '2026-11-21T08-00-00Z', owner: {run: 'run7', pid: process.pid}});
	const owner = partial!.owner!;
	await expect(stateOf(owner)).resolves.toBe('alive');
	await expect(stateOf({...owner, startTicks: owner.startTicks - 1})).resolves.toBe('dead');
	await expect(stateOf({...owner, bootId: 'other'})).resolves.toBe('dead');
	await expect(stateOf({...owner, host: 'other'})).resolves.toBe('unknown');
	const child = spawn('true');
	const {pid = 0} = child;
	await once(child, 'close');
	await expect(stateOf({...owner, pid})).resolves.toBe('dead');
	expect(parseOwner('{')).toBeUndefined();
	expect(parseOwner(JSON.stringify(await thisOwner('r')))).toMatchObject({run: 'r'});
	await removePartial(partial!);
	await expect(listPartials(repository, 'web')).resolves.toEqual([]);
});

function writer(folder: string, image: string, killAt: number) {
	const program = path.join(import.meta.dirname, 'crash-writer.ts');
	const work = {draft: {...draft, disks: [disk, {...disk, name: 'vdb', file: 'vdb.qcow2'}]}, machine};
	return spawnSync(
		process.execPath,
		['--disable-warning=ExperimentalWarning', program, folder, image, String(killAt)],
		{
			encoding: 'utf8',
			env: {...process.env, CRASH_WRITER: JSON.stringify(work)},
		},
	);
}

function smallImage(): string {
	const image = path.join(temporaryFolder(), 'a.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', image, '64k');
	return image;
}

test('a point is on the disk before it appears', () => {
	const {stdout, stderr} = writer(temporaryFolder(), smallImage(), -1);
	expect(stderr).toBe('');
	const calls = JSON.parse(stdout) as string[];
	const point = 'vms/web/.2026-11-21T08-00-00Z.partial';
	const at = (call: string) => {
		expect(calls).toContain(call);
		return calls.lastIndexOf(call);
	};
	const rename = at(`rename ${point}`);
	const folder = at(`sync ${point}`);
	expect(folder).toBeLessThan(rename);
	for (const file of ['vda.qcow2', 'vdb.qcow2', 'machine.json', 'point.json', 'SHA256SUMS']) {
		expect(at(`sync ${point}/${file}`)).toBeLessThan(folder);
	}
	expect(at(`rm ${point}/run.json`)).toBeLessThan(folder);
	expect(at('sync vms/web')).toBeGreaterThan(rename);
	expect(at('sync vms')).toBeLessThan(rename);
	expect(calls.indexOf('sync ')).toBeGreaterThan(calls.findIndex(call => call.startsWith('link .repository.')));
});

test('killed at any step, it leaves no point or a whole one, and the next run goes on', async () => {
	const image = smallImage();
	let killed = 0;
	for (let step = 0, alive = false; !alive; step++) {
		const folder = temporaryFolder();
		alive = writer(folder, image, step).signal === null;
		if (!alive) killed++;
		const repository = await openOrCreateRepository(folder);
		const points = await listPoints(repository, 'web');
		for (const {id} of points) {
			await expect(verifyPoint(repository, 'web', id)).resolves.toMatchObject({problems: []});
		}
		const partials = await listPartials(repository, 'web');
		expect(points.length + partials.length).toBeLessThanOrEqual(1);
		for (const partial of partials) {
			if (partial.owner) await expect(stateOf(partial.owner)).resolves.toBe('dead');
			await removePartial(partial);
		}
		const next = await createPartialPoint(repository, 'web', eight, 'r2');
		await next.finish(draft, machine);
		await expect(listPoints(repository, 'web')).resolves.toHaveLength(points.length + 1);
		fs.rmSync(folder, {recursive: true});
	}
	expect(killed).toBeGreaterThan(20);
});
