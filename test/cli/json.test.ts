import {mkdir, writeFile} from 'node:fs/promises';
import {afterAll, beforeAll, expect, test} from 'vitest';
import {describeProgram} from '../../src/cli/definitions/describe.ts';
import {output} from '../guest/command.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {shapesOfLines} from './json-shape.ts';
import {type Ended, runQuiesce, startQuiesce} from './run-quiesce.ts';
import {backupArgs, type Folder, guestName, newRepository, pointsIn, socketsOf, temporaryFolder} from './scene.ts';

let folder: Folder;
let guest: Guest;
let repository: string;
/** The commands whose JSON was looked at. */
const seen = new Set<string>();

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	guest = await startGuest({name: guestName('told'), bytes: 24 << 20, format: 'qcow2'});
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

/** That the JSON of a command has the shape that it had; `--update` writes it anew. */
async function expectShape(file: string, {stdout, stderr, code}: Ended, expected = 0): Promise<void> {
	expect(code, stderr).toBe(expected);
	await expect(`${JSON.stringify(shapesOfLines(stdout), null, '\t')}\n`).toMatchFileSnapshot(
		`../../fixtures/json/${file}.json`,
	);
}

async function json(name: string, args: readonly string[], expected = 0, file = name): Promise<Ended> {
	seen.add(name);
	const [command = '', ...own] = args;
	const ended = await runQuiesce([command, '--json', ...own]);
	await expectShape(file.replaceAll(' ', '-'), ended, expected);
	return ended;
}

const live = (command: string, ...more: string[]): string[] => [...command.split(' '), ...socketsOf(guest), ...more];

test('of what only looks', async () => {
	await json('inspect', live('inspect'));
	await json('doctor', live('doctor', '-r', repository));
	await json('hooks list', ['hooks', 'list']);
	await json('hooks show', ['hooks', 'show', 'redis']);
	await json('completion', ['completion', 'bash']);
	await json('jobs', ['jobs', '--qmp', guest.qmpPath]);
	// Of the whole host: that of other VMs may differ.
	const found = await runQuiesce(['discover', '--json']);
	const own = (JSON.parse(found.stdout) as {name?: string}[]).filter(({name}) => name === guest.name);
	seen.add('discover');
	await expectShape('discover', {...found, stdout: JSON.stringify(own)});
	seen.add('qmp');
	const asked = await runQuiesce(['qmp', '--qmp', guest.qmpPath, 'query-status']);
	expect(JSON.parse(asked.stdout)).toMatchObject({status: 'running'});
});

test('of a backup, and of all that is done with its point', async () => {
	await json('backup', backupArgs(guest, repository, '--dry-run'), 0, 'backup --dry-run');
	await json('backup', backupArgs(guest, repository));
	await json('backup', backupArgs(guest, repository), 0, 'backup of changes');
	const [point = ''] = await pointsIn(repository, guest.name);
	const named = `${guest.name}@${point}`;
	await json('list', ['list', '-r', repository]);
	await json('show', ['show', named, '-r', repository]);
	await json('verify', ['verify', named, '-r', repository]);
	await json('protect', ['protect', named, '-r', repository]);
	await json('unprotect', ['unprotect', named, '-r', repository]);
	await json('restore', ['restore', named, '--to', folder.new('restored'), '-r', repository]);
	await json('export', ['export', named, '-o', folder.new('archive.vma'), '-r', repository], 0, 'export of a point');
	await json('serve', ['serve', named, '-r', repository, '--', 'true']);
	await json('prune', ['prune', '--keep-last', '1', '-r', repository]);
});

test('of an archive', async () => {
	const archive = `${folder.new('archive')}.vma`;
	await json('export', live('export', '-o', archive));
	await json('import', ['import', archive, '-r', await newRepository(folder)]);
	await json('verify', ['verify', archive], 0, 'verify of an archive');
	await json('list', ['list', archive], 0, 'list of an archive');
});

test('of what freezes and shows', async () => {
	await json('freeze', live('freeze', '--', 'true'), 0, 'freeze around a command');
	await json('freeze', live('freeze', '--for', '30s'));
	await json('thaw', live('thaw'));
	await json('expose', live('expose', '--', 'true'));
	seen.add('events');
	const events = startQuiesce(['events', `${guest.name}=${guest.qmpPath}`, '--count', '1', '--json']);
	await expectShape('events', await events.ended);
});

test('of snapshots and merges', async () => {
	await json('snapshot create', live('snapshot create', 'one'));
	await json('snapshot list', live('snapshot list'));
	await json('stream', live('stream'));
	await json('snapshot create', live('snapshot create', 'two'), 0, 'snapshot create again');
	await json('commit', live('commit'));
	await json('recover', live('recover'));
	await json('snapshot create', live('snapshot create', 'three'), 0, 'snapshot create again');
	await json('snapshot delete', live('snapshot delete', 'three'));
});

test('of a way back', async () => {
	const image = folder.new('off.qcow2');
	await output('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
	await output('qemu-img', ['snapshot', '-c', 'before', image]);
	await json('revert', ['revert', `${guestName('off')}@before`, '--image', `vda=${image},format=qcow2`]);
});

test('of files', async () => {
	const config = folder.new('config');
	await writeFile(config, 'repository: /none/such\n', {mode: 0o600});
	await json('config check', ['config', 'check', config]);
	await json('manual', ['manual', folder.new('man')]);
	const root = folder.new('root');
	await mkdir(root);
	await json('hooks install', ['hooks', 'install', 'redis', '--root', root]);
	const transaction = folder.new('transaction');
	await writeFile(transaction, 'actions: [{type: abort, data: {}}]\n');
	await json('transaction', ['transaction', ...socketsOf(guest), '--dry-run', transaction]);
	await json('transaction', ['transaction', ...socketsOf(guest), transaction], 21, 'transaction that QEMU refuses');
});

test('no command is left out', async () => {
	const {commands} = await describeProgram();
	expect(commands.map(({name}) => name).filter(name => !seen.has(name))).toEqual([]);
});
