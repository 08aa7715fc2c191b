import {chmod, mkdir, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {afterAll, beforeAll, beforeEach, expect, test} from 'vitest';
import {type Guest, startGuest} from '../guest/guest.ts';
import {type Ended, lastOf, runQuiesce} from './run-quiesce.ts';
import {expectThawed, type Folder, guestName, newRepository, pointsIn, temporaryFolder} from './scene.ts';

let folder: Folder;
let guest: Guest;
let repository: string;
let notes: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	guest = await startGuest({name: guestName('configured'), bytes: 24 << 20});
	notes = folder.new('notes');
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

beforeEach(() => rm(notes, {force: true}));

/** A config file with this VM, and `more`. */
async function config(more: object = {}, name = guest.name): Promise<string> {
	const file = folder.new('config');
	const vms = {[name]: {qmp: `unix:${guest.qmpPath}`, agent: `unix:${guest.agentPath}`, backup: {exclude: ['vdb']}}};
	await writeFile(file, JSON.stringify({repository, backup: {quiesce: 'require'}, vms, ...more}));
	await chmod(file, 0o600);
	return file;
}

const note = (more = ''): object => ({command: ['sh', '-c', `echo $QUIESCE_MOMENT $QUIESCE_VM >>${notes}; ${more}`]});
const MOMENTS = ['run_start', 'pre_freeze', 'frozen', 'thawed', 'copied', 'success', 'failure'];

async function momentsNoted(): Promise<string[]> {
	const lines = (await readFile(notes, 'utf8')).trimEnd().split('\n');
	return lines.map(line => {
		const [moment = '', vm] = line.split(' ');
		expect(vm).toBe(guest.name);
		return moment;
	});
}

const backup = (file: string, ...more: string[]): Promise<Ended> =>
	runQuiesce(['backup', guest.name, '--config', file, ...more]);

test('a VM, its policy and the repository need not be typed; what is typed comes first', async () => {
	const file = await config();
	const planned = lastOf(await backup(file, '--dry-run', '--json'))['plan'] as {
		disks: {name: string}[];
		quiesce: boolean;
	};
	expect(planned.disks.map(({name}) => name)).toEqual(['vda']);
	const typed = lastOf(await backup(file, '--dry-run', '--json', '--exclude', 'vda', '--quiesce', 'never'))[
		'plan'
	] as typeof planned;
	expect(typed).toMatchObject({disks: [{name: 'vdb'}], quiesce: false});
	const inspected = await runQuiesce(['inspect', guest.name], {env: {QUIESCE_CONFIG: file}});
	expect(inspected.code).toBe(0);
	const elsewhere = await newRepository(folder);
	const listed = await runQuiesce(['list', '--config', file], {env: {QUIESCE_REPOSITORY: elsewhere}});
	expect(listed.stderr).toContain(elsewhere);
});

test('hooks are called at their moments, and metrics written', async () => {
	const metrics = folder.new('metrics');
	await mkdir(metrics);
	const file = await config({metrics, hooks: Object.fromEntries(MOMENTS.map(moment => [moment, [note()]]))});
	expect(await backup(file)).toMatchObject({code: 0});
	expect(await momentsNoted()).toEqual(['run-start', 'pre-freeze', 'frozen', 'thawed', 'copied', 'success']);
	expect(await readdir(metrics)).toEqual([`quiesce_${guest.name}.prom`]);
	const text = await readFile(join(metrics, `quiesce_${guest.name}.prom`), 'utf8');
	expect(text).toContain(`quiesce_last_point_quiesced{vm="${guest.name}"} 1\n`);
});

test.each(['run_start', 'pre_freeze', 'frozen', 'copied'])(
	'one that fails at %s ends the run, with the guest thawed and no point',
	async at => {
		const before = await pointsIn(repository, guest.name);
		const hooks = Object.fromEntries(
			MOMENTS.map(moment => [
				moment,
				[{...note(moment === at ? 'exit 7' : ''), ...(moment === at ? {on_failure: 'abort'} : {})}],
			]),
		);
		const ended = await backup(await config({hooks}), '--json');
		expect(ended.code).toBe(1);
		expect(lastOf(ended)).toMatchObject({
			code: 'FAILED',
			message: `hook ${at.replace('_', '-')}: sh ended with status 7`,
		});
		const expected = MOMENTS.slice(0, MOMENTS.indexOf(at) + 1).map(moment => moment.replace('_', '-'));
		// What was begun before a freeze is ended in any case.
		const ends = ['pre_freeze', 'frozen'].includes(at) ? ['thawed', 'failure'] : ['failure'];
		expect(await momentsNoted()).toEqual([...expected, ...ends]);
		await expectThawed(guest, 5_000);
		expect(await pointsIn(repository, guest.name)).toEqual(before);
	},
);

test('one that hangs in the freeze is ended in time', async () => {
	const hooks = {frozen: [{command: ['sleep', '600'], timeout: '1h'}], thawed: [note()]};
	const ended = await backup(await config({hooks}));
	expect(ended.code).toBe(1);
	expect(ended.stderr).toContain('hook frozen: sleep ran longer than 3 s');
	await expectThawed(guest, 5_000);
	expect(await momentsNoted()).toEqual(['thawed']);
});

test('a run that cannot even reach the VM is a failure for the hooks and the metrics too', async () => {
	const metrics = folder.new('metrics');
	await mkdir(metrics);
	const file = folder.new('config');
	const vms = {[guest.name]: {qmp: '/none/such.qmp'}};
	await writeFile(
		file,
		JSON.stringify({repository, metrics, vms, hooks: {failure: [note(`echo "$QUIESCE_ERROR_CODE x" >${notes}`)]}}),
	);
	await chmod(file, 0o600);
	expect((await backup(file)).code).toBe(20);
	expect(await readFile(notes, 'utf8')).toBe('UNREACHABLE x\n');
	const text = await readFile(join(metrics, `quiesce_${guest.name}.prom`), 'utf8');
	expect(text).toContain(`quiesce_failures_total{vm="${guest.name}"} 1\n`);
});

test('metrics that cannot be written cost a warning, and no point', async () => {
	const ended = await backup(await config({metrics: '/none/such'}));
	expect(ended.code).toBe(0);
	expect(ended.stderr).toContain('warning: no metrics: cannot write /none/such/');
});

test('another VM than the one that the file means is refused', async () => {
	const file = await config({}, 'someone-else');
	const ended = await runQuiesce(['backup', 'someone-else', '--config', file]);
	expect(ended.code).toBe(2);
	expect(ended.stderr).toContain(`is called ${guest.name}, and not someone-else`);
});

test('config check says what is wrong, and what is not there', async () => {
	const file = await config({groups: {shop: [guest.name, 'db1']}, metrics: '/none/such'});
	const good = await runQuiesce(['config', 'check', file, '--json']);
	expect(good.code).toBe(0);
	expect(lastOf(good)).toMatchObject({vms: 1, groups: 1, missing: [{setting: 'metrics'}]});
	const plain = await runQuiesce(['config', 'check'], {env: {QUIESCE_CONFIG: file}});
	expect(plain.stderr).toBe(
		`warning: metrics: /none/such is not there, or not for this user\n${file}: 1 VM, 1 group; nothing is wrong in it\n`,
	);
	await writeFile(file, 'repository: x\nvm: {}\n');
	const bad = await runQuiesce(['config', 'check', file]);
	expect(bad.code).toBe(2);
	expect(bad.stderr.split('\n')).toEqual([
		`quiesce: ${file} is not a config file of this program`,
		`  ${file}:1: repository: has to be a path from the root`,
		`  ${file}:2: vm: there is no such setting`,
		'',
	]);
	expect((await runQuiesce(['list', '--config', `${file}.none`])).stderr).toContain('there is no config file');
	expect((await runQuiesce(['config', 'check', `${file}.none`])).code).toBe(2);
});
