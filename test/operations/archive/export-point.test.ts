import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {exportPoint, type ExportPointRequest} from '../../../src/operations/archive/export-point.ts';
import {listArchive} from '../../../src/operations/archive/list-archive.ts';
import {tarHeader} from '../../../src/operations/archive/tar.ts';
import type {Point} from '../../../src/repository/points.ts';
import {openOrCreateRepository} from '../../../src/repository/repository.ts';
import {ownRuntimeFolder} from '../../jobs/bare-vm.ts';
import {collect} from '../../jobs/collect.ts';
import {corrupt, machine, qemuImg, temporaryFolder} from '../../repository/fixture.ts';
import {PointChain} from '../../repository/point-chain.ts';
import {expectArchived} from './exporting.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const signal = new AbortController().signal;

async function increments(): Promise<{chain: PointChain; tip: Point}> {
	const chain = new PointChain(await openOrCreateRepository(temporaryFolder()));
	const tip = await chain.on(await chain.on(await chain.on(null)));
	return {chain, tip};
}

function requestFor(chain: PointChain, {id}: Point, file: string, rest: Partial<ExportPointRequest> = {}) {
	return {
		...{repository: chain.repository.path, vm: chain.vm, point: id, signal},
		...{format: 'vma', compression: 'none', target: {kind: 'file', path: file}},
		...rest,
	} satisfies ExportPointRequest;
}

test.each(['none', 'zstd'] as const)(
	'an increment becomes an archive of all that its disks held: %s',
	async compression => {
		const {chain, tip} = await increments();
		const file = path.join(temporaryFolder(), 'web.vma');
		const messages = await collect(exportPoint(requestFor(chain, tip, file, {compression})));
		expect(messages.at(-1)).toMatchObject({
			...{kind: 'finished', file, index: `${file}.index.json`, cutAt: tip.manifest.cutAt, consistency: 'quiesced'},
		});
		await expectArchived(file, chain.held.get(tip.id)!);
		const {createdAt, configs} = await listArchive({kind: 'file', path: file}, signal);
		expect(Date.parse(createdAt)).toBe(Date.parse(tip.manifest.cutAt));
		expect(configs).toContain('machine.json');
	},
);

test('a tar has the disks as raw files, and the machine', async () => {
	const {chain, tip} = await increments();
	const folder = temporaryFolder();
	const file = path.join(folder, 'web.tar');
	await collect(exportPoint(requestFor(chain, tip, file, {format: 'tar'})));
	expect(fs.readdirSync(folder)).toEqual(['web.tar']);
	execFileSync('tar', ['-xf', file], {cwd: folder});
	for (const [disk, content] of chain.held.get(tip.id)!) {
		expect(fs.readFileSync(path.join(folder, `${disk}.raw`)).equals(content)).toBe(true);
	}
	expect(JSON.parse(fs.readFileSync(path.join(folder, 'machine.json'), 'utf8'))).toEqual(machine);
	const huge = Buffer.concat([tarHeader('vda.raw', 2 ** 40, 1_700_000_000), Buffer.alloc(512)]);
	const listing = execFileSync('sh', ['-c', 'tar -tvf - 2>&1 || true'], {input: huge, encoding: 'utf8'});
	expect(listing).toMatch(/-rw------- 0\/0 +1099511627776 .* vda\.raw/);
});

test.each(['raw', 'qcow2'] as const)('one disk becomes a %s image', async format => {
	const {chain, tip} = await increments();
	const folder = temporaryFolder();
	const file = path.join(folder, `vdb.${format}`);
	const both = collect(exportPoint(requestFor(chain, tip, file, {format})));
	await expect(both).rejects.toThrow(/has 2 disks, and a .* image has one/);
	await collect(exportPoint(requestFor(chain, tip, file, {format, only: ['vdb']})));
	const reference = path.join(folder, 'reference');
	fs.writeFileSync(reference, chain.held.get(tip.id)!.get('vdb')!);
	expect(qemuImg('compare', '-f', format, '-F', 'raw', file, reference)).toContain('identical');
});

test.each(['vma', 'tar', 'raw'] as const)('a damaged point becomes no %s', async format => {
	const {chain, tip} = await increments();
	corrupt(path.join(tip.folder, 'vda.qcow2'), 300_000);
	const folder = temporaryFolder();
	const request = requestFor(chain, tip, path.join(folder, 'out'), {format, only: ['vda']});
	await expect(collect(exportPoint(request))).rejects.toMatchObject({code: 'DAMAGED'});
	expect(fs.readdirSync(folder)).toEqual([]);
});

test('nothing that exists is overwritten, and a cancelled export leaves nothing', async () => {
	const {chain, tip} = await increments();
	const folder = temporaryFolder();
	const file = path.join(folder, 'out');
	const cancelling = new AbortController();
	const request = requestFor(chain, tip, file, {signal: cancelling.signal});
	const cancelled = collect(exportPoint(request), ({kind}) => {
		if (kind === 'progress') cancelling.abort(new Error('enough'));
	});
	await expect(cancelled).rejects.toThrow('enough');
	expect(fs.readdirSync(folder)).toEqual([]);
	fs.writeFileSync(file, 'theirs');
	for (const format of ['vma', 'tar', 'raw'] as const) {
		const again = exportPoint(requestFor(chain, tip, file, {format, only: ['vda']}));
		await expect(collect(again)).rejects.toMatchObject({code: 'USAGE'});
	}
	expect(fs.readFileSync(file, 'utf8')).toBe('theirs');
});
