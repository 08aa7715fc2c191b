import {cp, open, readdir, rm, truncate} from 'node:fs/promises';
import {join} from 'node:path';
import {afterAll, beforeAll, describe, expect, test} from 'vitest';
import {blankImage} from '../guest/disks.ts';
import {output} from '../guest/command.ts';
import {startQemu} from '../support/real-qemu.ts';
import {jsonLines, lastOf, runQuiesce} from './run-quiesce.ts';
import {type Folder, guestName, newRepository, temporaryFolder} from './scene.ts';

const vm = guestName('kept');
let folder: Folder;
let whole: string;
let id: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	whole = await newRepository(folder);
});

afterAll(() => folder[Symbol.asyncDispose]());

test('a VM without an agent and a guest is backed up, listed, shown, verified and restored', async () => {
	const [one, two] = [
		await blankImage(folder.new('one'), 'raw', 4 << 20),
		await blankImage(folder.new('two'), 'qcow2', 2 << 20),
	];
	await output('qemu-io', ['-f', 'raw', '-c', 'write -P 0x5a 1M 2M', one.path]);
	const qemu = await startQemu(
		...['-name', vm, '-machine', 'q35', '-S'],
		...[one, two].flatMap(({path, format}, index) => [
			...['-blockdev', `driver=${format},node-name=n${index},file.driver=file,file.filename=${path}`],
			...['-device', `virtio-blk-pci,id=disk${index},drive=n${index}`],
		]),
	);
	const taken = await runQuiesce(['backup', '--qmp', qemu.qmpPath, '-r', whole]);
	expect(taken.code).toBe(0);
	id = taken.stdout.trim().split('@')[1] ?? '';
	await qemu.kill();

	const list = await runQuiesce(['list', '-r', whole]);
	expect(list).toMatchObject({code: 0, stderr: ''});
	expect(list.stdout).toMatch(new RegExp(`^${vm}@${id}  full  `, 'm'));
	const shown = await runQuiesce(['show', `${vm}@${id}`, '-r', whole]);
	expect(shown.stdout).toMatch(/^disk0 +full +disk0\.qcow2 +4\.0 MiB/m);
	expect(JSON.parse((await runQuiesce(['show', vm, '-r', whole, '--json'])).stdout)).toMatchObject({id, vm});
	expect(await runQuiesce(['verify', '-r', whole])).toMatchObject({
		code: 0,
		stdout: expect.stringContaining(': all sound') as string,
	});
	const to = folder.new('to');
	const restored = await runQuiesce(['restore', vm, '-r', whole, '--to', to, '--json']);
	expect(restored.code).toBe(0);
	expect(lastOf(restored)).toMatchObject({message_type: 'summary', disks: [{disk: 'disk0'}, {disk: 'disk1'}]});
	expect((await readdir(to)).sort()).toEqual(['disk0.raw', 'disk1.qcow2']);
	await output('cmp', [join(to, 'disk0.raw'), one.path]);
	const again = await runQuiesce(['restore', vm, '-r', whole, '--to', to, '--json']);
	expect(again.code).toBe(2);
	expect(lastOf(again)['message']).toContain('is not empty');
});

test('what a repository does not hold is told from what it does', async () => {
	const missing = await runQuiesce(['show', `${vm}@2020-01-01T00-00-00Z`, '-r', whole, '--json']);
	expect(missing.code).not.toBe(0);
	expect(lastOf(missing)).toMatchObject({message_type: 'exit_error'});
	const nobody = await runQuiesce(['restore', 'nobody', '-r', whole, '--to', folder.new('to'), '--json']);
	expect(nobody.code).not.toBe(0);
	expect(lastOf(nobody)).toMatchObject({
		message_type: 'exit_error',
		message: expect.stringContaining('nobody') as string,
	});
	for (const command of [['list'], ['verify'], ['show', 'x']]) {
		const ended = await runQuiesce([...command, '-r', '/nowhere', '--json']);
		expect(ended.code).toBe(10);
		expect(lastOf(ended)).toMatchObject({code: 'NO_REPOSITORY'});
	}
});

describe('a damaged point', () => {
	const flip = async (file: string): Promise<void> => {
		await using handle = await open(file, 'r+');
		const {size} = await handle.stat();
		const {buffer} = await handle.read(Buffer.alloc(1), 0, 1, size - 100);
		await handle.write(Buffer.of((buffer[0] ?? 0) ^ 1), 0, 1, size - 100);
	};
	test.each([
		['with a flipped bit', flip, 'disk0.qcow2'],
		['with a truncated file', (file: string) => truncate(file, 1000), 'disk0.qcow2'],
		['that lacks a file', (file: string) => rm(file), 'disk0.qcow2'],
		['whose manifest is gone', (file: string) => rm(file), 'point.json'],
		['whose manifest is changed', flip, 'point.json'],
		['whose machine is changed', flip, 'machine.json'],
		['whose sums are gone', (file: string) => rm(file), 'SHA256SUMS'],
	])('%s is found by verify, which names the file, and restore writes nothing', async (_what, damage, file) => {
		const repository = folder.new('damaged');
		await cp(whole, repository, {recursive: true});
		await damage(join(repository, 'vms', vm, id, file));
		const verified = await runQuiesce(['verify', '-r', repository]);
		expect(verified.code).toBe(30);
		expect(verified.stdout).toMatch(new RegExp(`^${vm}@${id}: DAMAGED: .*${file.replace('.', '\\.')}`, 'm'));
		const json = await runQuiesce(['verify', '-r', repository, '--json']);
		expect(json.code).toBe(30);
		expect(lastOf(json)).toMatchObject({message_type: 'summary', damaged: 1});
		expect(jsonLines(json).find(({message_type}) => message_type === 'verified')).toMatchObject({vm, point: id});
		const to = folder.new('to');
		const restored = await runQuiesce(['restore', `${vm}@${id}`, '-r', repository, '--to', to, '--json']);
		expect(restored.code).toBe(30);
		expect(lastOf(restored)).toMatchObject({message_type: 'exit_error', code: 'DAMAGED', exit_code: 30});
		expect((await readdir(folder.path)).some(name => join(folder.path, name) === to)).toBe(false);
		expect((await runQuiesce(['list', '-r', repository])).code).toBe(0);
	});
});
