import {chmod, mkdir, open, readdir, readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {afterAll, beforeAll, expect, test} from 'vitest';
import {parseConfig} from '../../src/config/config-file.ts';
import {runQuiesce, runtimeDir, startQuiesce} from '../cli/run-quiesce.ts';
import {backupArgs, type Folder, guestName, newRepository, socketsOf, temporaryFolder} from '../cli/scene.ts';
import {outcome, type Finished} from '../guest/command.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {codeBlocks, project} from './pages.ts';

const HOOK = join(project, 'docs/proxmox/vzdump-hook');

let folder: Folder;
let guest: Guest;
let dump: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	guest = await startGuest({name: guestName('hosted'), bytes: 64 << 20, fillBytes: 16 << 20});
	dump = folder.new('dump');
	await mkdir(dump);
	await writeFile(
		join(folder.path, 'quiesce'),
		`#!/bin/sh\nQUIESCE_CONFIG= QUIESCE_RUNTIME_DIR=${runtimeDir} exec '${process.execPath}' ${project}/bin/quiesce.js "$@"\n`,
	);
	await chmod(join(folder.path, 'quiesce'), 0o755);
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

/** As vzdump calls it. */
function hook(phase: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<Finished> {
	const variables = {VMTYPE: 'qemu', PATH: `${folder.path}:${process.env['PATH'] ?? ''}`, ...environment};
	return outcome('env', [...Object.entries(variables).map(([name, value]) => `${name}=${value}`), HOOK, ...phase]);
}

test('export names an archive as vzdump does, with notes, and the hook passes it; damaged, it fails', async () => {
	const began = new Date();
	const exported = await runQuiesce(['export', ...socketsOf(guest), '--output', dump, '--vmid', '101']);
	expect(exported.code, exported.stderr).toBe(0);
	const archive = exported.stdout.trim();
	const [, ...parts] = /^vzdump-qemu-101-(\d{4})_(\d\d)_(\d\d)-(\d\d)_(\d\d)_(\d\d)\.vma\.zst$/.exec(
		archive.slice(dump.length + 1),
	)!;
	const [year, month, ...rest] = parts.map(Number) as [number, number, number, number, number, number];
	const named = new Date(year, month - 1, ...rest);
	expect(Math.abs(named.getTime() - began.getTime())).toBeLessThan(60_000);
	const name = archive.slice(dump.length + 1);
	expect((await readdir(dump)).sort()).toEqual([name, `${name}.index.json`, `${name}.notes`]);
	expect(await readFile(`${archive}.notes`, 'utf8')).toMatch(
		new RegExp(`^${guest.name}, quiesced, 20\\S+Z, by quiesce \\S+\n$`),
	);

	expect(await hook(['backup-end', 'snapshot', '101'], {TARGET: archive})).toMatchObject({code: 0});
	const file = await open(archive, 'r+');
	const {size} = await file.stat();
	await file.write(Buffer.alloc(64, 0x5a), 0, 64, Math.floor(size / 2));
	await file.close();
	const failed = await hook(['backup-end', 'snapshot', '101'], {TARGET: archive});
	expect(failed.code).not.toBe(0);
	expect(await hook(['backup-end', 'snapshot', '101'], {TARGET: `${dump}/x.vma.lzo`})).toMatchObject({code: 0});
	expect(await hook(['log-end', 'snapshot', '101'])).toMatchObject({code: 0});
});

test.each(['99', '0101', 'web1', ''])('--vmid %j is refused', async vmid => {
	const refused = await runQuiesce(['export', ...socketsOf(guest), '--output', dump, '--vmid', vmid]);
	expect(refused).toMatchObject({code: 2, stdout: ''});
});

test('before a backup of vzdump the hook refuses while a run of ours is at work, and else lets it go on', async () => {
	const start = ['backup-start', 'snapshot', guest.name];
	const run = startQuiesce(backupArgs(guest, await newRepository(folder), '--speed', '2M', '--compress', 'none'));
	await run.says(/^cut: /m);
	const refused = await hook(start);
	expect(refused).toMatchObject({code: 1});
	expect(refused.stdout).toContain(`quiesce is at work with VM ${guest.name}`);
	run.kill('SIGTERM');
	await run.ended;
	expect(await hook(start)).toMatchObject({code: 0});
	const unknown = await hook(['backup-start', 'snapshot', '987654']);
	expect(unknown).toMatchObject({code: 0});
	expect(unknown.stdout).toContain('could not look for leftovers');
	expect(await hook(['backup-start', 'snapshot', '987654'], {VMTYPE: 'lxc'})).toMatchObject({code: 0, stdout: ''});
});

test('the config file of the page can be read', () => {
	const [text = ''] = codeBlocks('docs/proxmox.md', 'yaml');
	expect(Object.keys(parseConfig(text, 'proxmox.md').hooks)).toEqual(['run_start', 'success', 'failure']);
});
