import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {createPartialPoint} from '../../src/repository/partial-point.ts';
import {verifyPoint} from '../../src/repository/verify-point.ts';
import {corrupt, draft, emptyRepository, forgeSums, machine, makePoint, onTopOf, qemuImg} from './fixture.ts';

async function damagedBy(damage: (folder: string) => void) {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	damage(point.folder);
	const {problems} = await verifyPoint(repository, 'web', point.id);
	return problems.map(({file, problem}) => `${file}: ${problem}`);
}

test('a sound point has no problems, and all of it is read', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	const result = await verifyPoint(repository, 'web', point.id);
	const read = ['point.json', 'machine.json', 'vda.qcow2', 'vdb.qcow2'].map(
		name => fs.statSync(path.join(point.folder, name)).size,
	);
	expect(result).toEqual({
		point: point.id,
		problems: [],
		warnings: [],
		bytesRead: read.reduce((one, other) => one + other, 0),
	});
});

test('a changed bit is found in each file', async () => {
	for (const file of ['vda.qcow2', 'vdb.qcow2']) {
		await expect(
			damagedBy(folder => {
				corrupt(path.join(folder, file), 200_000);
			}),
		).resolves.toEqual([`${file}: its checksum is wrong`]);
	}
	const replace = (file: string, from: string, to: string) =>
		damagedBy(folder => {
			const text = fs.readFileSync(path.join(folder, file), 'utf8');
			fs.writeFileSync(path.join(folder, file), text.replace(from, to));
		});
	await expect(replace('point.json', 'quiesced', 'offline')).resolves.toEqual(['point.json: its checksum is wrong']);
	await expect(replace('machine.json', 'pc-q35', 'pc-x35')).resolves.toEqual(['machine.json: its checksum is wrong']);
	await expect(replace('point.json', '{', '[')).resolves.toEqual([expect.stringMatching(/point\.json is not JSON$/)]);
	await expect(replace('machine.json', '{', '[')).resolves.toContainEqual(
		expect.stringMatching(/machine\.json is not JSON$/),
	);
});

test('files that are cut off, missing, swapped or replaced are found', async () => {
	const image = (folder: string) => path.join(folder, 'vda.qcow2');
	await expect(
		damagedBy(folder => {
			fs.truncateSync(image(folder), 65_536);
		}),
	).resolves.toEqual([expect.stringMatching(/^vda\.qcow2: it has 65536 bytes and should have \d+$/)]);
	await expect(
		damagedBy(folder => {
			fs.rmSync(image(folder));
		}),
	).resolves.toEqual(['vda.qcow2: it is missing']);
	await expect(
		damagedBy(folder => {
			fs.renameSync(image(folder), `${folder}/x`);
			fs.renameSync(`${folder}/vdb.qcow2`, image(folder));
			fs.renameSync(`${folder}/x`, `${folder}/vdb.qcow2`);
		}),
	).resolves.toHaveLength(2);
	await expect(
		damagedBy(folder => {
			fs.renameSync(image(folder), `${folder}/x`);
			fs.symlinkSync('x', image(folder));
		}),
	).resolves.toEqual(['vda.qcow2: it is not a regular file']);
	await expect(
		damagedBy(folder => {
			fs.rmSync(`${folder}/machine.json`);
		}),
	).resolves.toContainEqual(expect.stringContaining('machine.json'));
	await expect(
		damagedBy(folder => {
			fs.rmSync(`${folder}/SHA256SUMS`);
		}),
	).resolves.toEqual(['SHA256SUMS: it is missing']);
});

test('SHA256SUMS lists the files of the point and no others', async () => {
	const edit = (change: (text: string) => string) =>
		damagedBy(folder => {
			const file = path.join(folder, 'SHA256SUMS');
			fs.writeFileSync(file, change(fs.readFileSync(file, 'utf8')));
		});
	const zeros = '0'.repeat(64);
	await expect(edit(text => text.replace(/.*vdb.*\n/, ''))).resolves.toEqual([
		'SHA256SUMS: it does not list vdb.qcow2',
	]);
	await expect(edit(text => `${text}${zeros}  x\n`)).resolves.toEqual([
		'SHA256SUMS: it lists x, not part of the point',
	]);
	await expect(edit(text => `${text}${zeros}  ../x\n`)).resolves.toEqual([
		expect.stringContaining('SHA256SUMS cannot be read: line 5'),
	]);
	await expect(edit(text => text.replace(/^.*(?=  vda)/m, zeros))).resolves.toEqual([
		'SHA256SUMS: it and point.json disagree on vda.qcow2',
	]);
});

test('an image that names another file is not opened', async () => {
	const problems = await damagedBy(folder => {
		qemuImg('rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b', '/etc/shadow', `${folder}/vda.qcow2`);
		qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${folder}/../data`, `${folder}/vdb.qcow2`, '540672');
		forgeSums(folder);
	});
	expect(problems).toEqual([
		expect.stringMatching(/^vda\.qcow2: .* is refused: it names the backing file "\/etc\/shadow"$/),
		expect.stringMatching(/^vdb\.qcow2: .* is refused: it keeps its data in another file$/),
	]);
});

test('an image that is broken or of another size is found though its checksum is right', async () => {
	const problems = await damagedBy(folder => {
		// The reference count of the header's cluster.
		corrupt(`${folder}/vda.qcow2`, 2 * 65_536 + 1);
		qemuImg('create', '-q', '-f', 'qcow2', `${folder}/vdb.qcow2`, '1M');
		forgeSums(folder);
	});
	expect(problems).toEqual([
		expect.stringContaining('vda.qcow2: qemu-img check found'),
		'vdb.qcow2: it holds a disk of 1048576 bytes; point.json says 540672',
	]);
});

test('an incremental may name the image of its parent, and needs it', async () => {
	const repository = await emptyRepository();
	const {point: full} = await makePoint(repository, [65_536]);
	const make = async (backing: string) => {
		const partial = await createPartialPoint(repository, 'web', new Date('2026-11-22T08:00:00Z'), 'r2');
		const file = partial.path('vda.qcow2');
		qemuImg('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-u', '-b', backing, file, '65536');
		const stored = {name: 'vda', file: 'vda.qcow2', sizeBytes: 65_536, format: 'raw', deviceType: null};
		const point = await partial.finish({...draft, disks: [{...stored, ...onTopOf(full.id)}]}, machine);
		return verifyPoint(repository, 'web', point.id);
	};
	await expect(make(`../${full.id}/vda.qcow2`)).resolves.toMatchObject({problems: []});
	await expect(make(`${full.folder}/vda.qcow2`)).resolves.toMatchObject({
		problems: [{problem: expect.stringContaining('it names the backing file') as string}],
	});
	fs.rmSync(full.folder, {recursive: true});
	await expect(make(`../${full.id}/vda.qcow2`)).resolves.toMatchObject({
		problems: [
			{file: 'vda.qcow2', problem: expect.stringMatching(/ needs point .* for vda, which is missing$/) as string},
		],
	});
});

test('checking can be aborted', async () => {
	const repository = await emptyRepository();
	const {point} = await makePoint(repository);
	const signal = AbortSignal.abort(new Error('enough'));
	await expect(verifyPoint(repository, 'web', point.id, {signal})).rejects.toThrow('enough');
});
