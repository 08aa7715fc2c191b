import {chmod, chown, mkdtemp, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {describe, expect, onTestFinished, test} from 'vitest';
import {parseConfig, readConfig} from '../../src/config/config-file.ts';
import {configSchema} from '../../src/config/config-schema.ts';
import {CUT_METHODS} from '../../src/cut/cut.ts';
import {LAYOUTS} from '../../src/operations/plan-copies.ts';

function problemsOf(text: string): readonly string[] {
	try {
		parseConfig(text, 'q.yaml');
	} catch (error) {
		const {message, problems} = error as {message: string; problems: readonly string[]};
		return problems.length > 0 ? problems : [message];
	}
	return [];
}

test('reads VMs, groups, policies and hooks', () => {
	const config = parseConfig(
		`
repository: /srv/backup
backup: {quiesce: require, full_every: 7d, speed: 100M}
prune: {keep_daily: 14}
metrics: /var/lib/node_exporter
vms:
  web1: {qmp: unix:/run/web1.qmp, agent: /run/web1.qga, backup: {exclude: [vdb]}}
  db1:
groups: {shop: [web1, db1]}
hooks:
  frozen: [{command: [/bin/true, -x], timeout: 2, on_failure: warn}]
  failure: [{ping_file: /etc/ping}, {ping: 'https://example.org/x'}]
`,
		'q.yaml',
	);
	expect(config.vms['web1']?.backup).toEqual({exclude: ['vdb']});
	expect(config.vms['db1']).toBeNull();
	expect(config.groups).toEqual({shop: ['web1', 'db1']});
	expect(config.hooks.frozen).toEqual([{command: ['/bin/true', '-x'], timeout: 2, on_failure: 'warn'}]);
});

test.each(['', '# nothing yet\n', '{}', 'vms: {}'])('takes a file with nothing in it: %j', text => {
	expect(parseConfig(text, 'q.yaml')).toMatchObject({vms: {}, groups: {}, hooks: {}});
});

test('says of every line that is wrong why', () => {
	const problems = problemsOf(`repository: srv/backup
backup:
  quiesce: maybe
  full_every: 7 days
  speed: fast
vms:
  web1:
    qmp: web1.qmp
    agnt: /run/x
groups:
  one: [a]
hooks:
  run_start:
    - commnd: x
    - command: []
    - ping: ftp://x
  later: []
prune: {keep_last: seven, keep_daily: -1}
nothing: here
`);
	expect(problems).toEqual([
		'q.yaml:1: repository: has to be a path from the root',
		'q.yaml:3: backup.quiesce: is not one of require | try | never',
		'q.yaml:4: backup.full_every: is not a duration, such as 30s, 5m or 7d',
		'q.yaml:5: backup.speed: is not a number of bytes, such as 64M',
		"q.yaml:8: vms.web1.qmp: 'web1.qmp' is no socket address. Use unix:/path, /path or tcp:host:port.",
		'q.yaml:9: vms.web1.agnt: there is no such setting',
		'q.yaml:11: groups.one: has less than two VMs',
		expect.stringContaining('q.yaml:14: hooks.run_start[0]: has to have one of command (a list of words), ping'),
		'q.yaml:15: hooks.run_start[1].command: names no program',
		'q.yaml:16: hooks.run_start[2].ping: has to begin with http:// or https://',
		'q.yaml:17: hooks.later: there is no such setting',
		'q.yaml:18: prune.keep_last: is not a number',
		'q.yaml:18: prune.keep_daily: is less than 0',
		'q.yaml:19: nothing: there is no such setting',
	]);
	expect(problemsOf('groups: {shop: [a, b, a]}')).toEqual(['q.yaml:1: groups.shop[2]: a is named twice']);
	expect(problemsOf('vms: [web1]')[0]).toContain('q.yaml:1: vms');
	expect(problemsOf('vms: {\n')[0]).toContain('q.yaml:2: ');
});

test('allows for a policy what the options allow', () => {
	const {method, layout} = configSchema.entries.backup.wrapped.entries;
	expect([...method.wrapped.options].sort()).toEqual([...CUT_METHODS].sort());
	expect(layout.wrapped.options).toEqual(LAYOUTS);
});

describe('a file', () => {
	async function file(mode: number): Promise<string> {
		const folder = await mkdtemp(join(tmpdir(), 'qsc-config-'));
		onTestFinished(() => rm(folder, {recursive: true, force: true}));
		const path = join(folder, 'q.yaml');
		await writeFile(path, 'repository: /srv\n');
		await chmod(path, mode);
		return path;
	}

	test('is read, or not there', async () => {
		const path = await file(0o644);
		expect(await readConfig(path)).toMatchObject({repository: '/srv'});
		expect(await readConfig(`${path}.none`)).toBeUndefined();
	});

	test.each([0o664, 0o646])('that others may write is refused: it names commands to be run (%o)', async mode => {
		await expect(readConfig(await file(mode))).rejects.toMatchObject({code: 'USAGE'});
	});

	test('of another user is refused', async () => {
		const path = await file(0o600);
		await chown(path, 65_534, 65_534);
		await expect(readConfig(path)).rejects.toThrow('can be written by others');
	});

	test('that cannot be read says why', async () => {
		await expect(readConfig(tmpdir())).rejects.toMatchObject({code: 'USAGE'});
	});
});
