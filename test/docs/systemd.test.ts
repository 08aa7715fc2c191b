import {cp, mkdir, mkdtemp, readdir, readFile, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {runQuiesce} from '../cli/run-quiesce.ts';
import {backupArgs, guestName, newRepository, temporaryFolder} from '../cli/scene.ts';
import {outcome, output} from '../guest/command.ts';
import {startGuest} from '../guest/guest.ts';
import {project} from './pages.ts';

const UNITS = join(project, 'docs/systemd');
const INSTANCES = ['quiesce@web1', 'quiesce-group@shop', 'quiesce-maintenance'];

test('the units are right, as systemd sees them', async () => {
	const root = await mkdtemp(join(tmpdir(), 'qsc-units-'));
	onTestFinished(() => rm(root, {recursive: true, force: true}));
	await mkdir(join(root, 'usr/bin'), {recursive: true});
	await cp('/usr/bin/env', join(root, 'usr/bin/env'));
	await cp('/lib/systemd/system', join(root, 'lib/systemd/system'), {recursive: true, verbatimSymlinks: true});
	await cp(UNITS, join(root, 'etc/systemd/system'), {recursive: true});
	const units = INSTANCES.flatMap(name => [`${name}.service`, `${name}.timer`]);
	const {code, stdout, stderr} = await outcome('systemd-analyze', ['verify', `--root=${root}`, '--man=no', ...units]);
	expect({code, said: `${stdout}${stderr}`}).toEqual({code: 0, said: ''});
	expect((await readdir(UNITS)).length).toBe(units.length);
});

test.each(['quiesce@.service', 'quiesce-group@.service', 'quiesce-maintenance.service'])(
	'%s is exposed no more than has to be',
	async unit => {
		const rated = await outcome('systemd-analyze', ['security', '--offline=yes', '--threshold=40', join(UNITS, unit)]);
		expect(rated.code, rated.stdout).toBe(0);
	},
);

test('a backup needs no more of root than the units leave it', async () => {
	await using folder = await temporaryFolder();
	await using guest = await startGuest({name: guestName('confined'), stamps: 'none', bytes: 24 << 20});
	const unit = await readFile(join(UNITS, 'quiesce@.service'), 'utf8');
	const [, names = ''] = /^CapabilityBoundingSet=(.*)$/m.exec(unit) ?? [];
	const set = ['-all', ...names.split(' ').map(name => `+${name.replace('CAP_', '').toLowerCase()}`)].join(',');
	const args = backupArgs(guest, await newRepository(folder), '--quiesce', 'require');
	const under = ['setpriv', `--bounding-set=${set}`, `--inh-caps=-all`, '--no-new-privs'];
	const {code, stderr} = await runQuiesce(args, {under});
	expect(code, stderr).toBe(0);
	const left = await output('setpriv', [...under.slice(1), 'grep', 'CapBnd', '/proc/self/status']);
	expect(
		BigInt(`0x${left.split(/\s+/)[1]!}`)
			.toString(2)
			.replaceAll('0', ''),
	).toHaveLength(names.split(' ').length);
});
