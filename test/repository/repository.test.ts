import {execFileSync, spawnSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {openOrCreateRepository, openRepository} from '../../src/repository/repository.ts';
import {temporaryFolder, temporaryMount} from './fixture.ts';

test('an empty folder becomes a repository, and stays that one', async () => {
	const folder = temporaryFolder();
	fs.mkdirSync(path.join(folder, 'lost+found'));
	const {id} = await openOrCreateRepository(folder);
	expect(fs.statSync(path.join(folder, 'repository.json')).mode & 0o777).toBe(0o600);
	expect(fs.statSync(path.join(folder, 'vms')).mode & 0o777).toBe(0o700);
	expect(fs.readdirSync(folder).sort()).toEqual(['lost+found', 'repository.json', 'vms']);
	await expect(openOrCreateRepository(folder)).resolves.toEqual({path: folder, id});
	await expect(openRepository(folder)).resolves.toEqual({path: folder, id});
});

test('runs that make it at once agree on it', async () => {
	const folder = temporaryFolder();
	const opened = await Promise.all(Array.from({length: 8}, () => openOrCreateRepository(folder)));
	expect(new Set(opened.map(({id}) => id)).size).toBe(1);
	expect(fs.readdirSync(folder).sort()).toEqual(['repository.json', 'vms']);
});

test('what a dead run left of making it is no obstacle', async () => {
	const folder = temporaryFolder();
	fs.writeFileSync(path.join(folder, '.repository.0f.new'), '{');
	await expect(openOrCreateRepository(folder)).resolves.toBeDefined();
});

test('a folder that is missing is not made: its disk may not be mounted', async () => {
	const folder = path.join(temporaryFolder(), 'missing');
	for (const open of [openRepository, openOrCreateRepository]) {
		await expect(open(folder)).rejects.toMatchObject({
			code: 'NO_REPOSITORY',
			message: `there is no repository ${folder}: the folder does not exist`,
			hint: expect.stringContaining('mounted') as string,
		});
	}
	fs.writeFileSync(folder, '');
	await expect(openOrCreateRepository(folder)).rejects.toThrow('it is not a folder');
});

test("somebody's folder is left alone", async () => {
	const folder = temporaryFolder();
	await expect(openRepository(folder)).rejects.toMatchObject({code: 'NO_REPOSITORY'});
	fs.writeFileSync(path.join(folder, 'letter.txt'), '');
	await expect(openOrCreateRepository(folder)).rejects.toMatchObject({code: 'NO_REPOSITORY'});
	expect(fs.readdirSync(folder)).toEqual(['letter.txt']);
});

test('a repository of a newer program is refused, with what to do', async () => {
	const folder = temporaryFolder();
	fs.writeFileSync(path.join(folder, 'repository.json'), JSON.stringify({format: 2, id: 'x'}));
	await expect(openRepository(folder)).rejects.toMatchObject({
		message: `${folder}/repository.json has format 2, and this program reads 1`,
		hint: expect.stringContaining('newer quiesce') as string,
	});
	fs.writeFileSync(path.join(folder, 'repository.json'), '{"format": 1}');
	await expect(openRepository(folder)).rejects.toThrow('cannot be read: id:');
});

test('a read-only file system can be read and not written', async () => {
	const folder = temporaryMount(4);
	const {id} = await openOrCreateRepository(folder);
	execFileSync('mount', ['-o', 'remount,ro', folder]);
	await expect(openRepository(folder)).resolves.toMatchObject({id});
	await expect(openOrCreateRepository(folder)).rejects.toMatchObject({
		code: 'FAILED',
		message: `cannot write to the repository ${folder}: read-only file system`,
	});
});

test('a user who may not write is told so', () => {
	const folder = temporaryFolder();
	fs.chmodSync(folder, 0o755);
	const module = new URL('../../src/repository/repository.ts', import.meta.url).href;
	const script = `
		const {openOrCreateRepository} = await import(${JSON.stringify(module)});
		process.setgroups([]); process.setgid(65534); process.setuid(65534);
		await openOrCreateRepository(${JSON.stringify(folder)}).catch(error => console.log(error.code, error.message, error.hint));
	`;
	const {stdout} = spawnSync(process.execPath, ['--input-type=module', '-e', script], {encoding: 'utf8'});
	expect(stdout).toContain(`FAILED cannot write to the repository ${folder}: permission denied Run as the user`);
	expect(fs.readdirSync(folder)).toEqual([]);
});
