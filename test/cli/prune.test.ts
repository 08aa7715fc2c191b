import {execFileSync} from 'node:child_process';
import {readdirSync, truncateSync} from 'node:fs';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {takeLock} from '../../src/host/lock.ts';
import {emptyRepository} from '../repository/fixture.ts';
import {PointChain} from '../repository/point-chain.ts';
import {jsonLines, lastOf, runQuiesce} from './run-quiesce.ts';

test('points are protected, listed, pruned by rules and by name, and what is left is sound', async () => {
	const chain = new PointChain(await emptyRepository(), {sizes: {vda: 1 << 20}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.on(one);
	const repository = ['-r', chain.repository.path];
	const marked = await runQuiesce(['protect', `web@${one.id}`, ...repository]);
	expect(marked).toMatchObject({code: 0, stdout: `web@${one.id}: protected\n`, stderr: ''});
	const again = await runQuiesce(['protect', `web@${one.id}`, ...repository, '--json']);
	expect(lastOf(again)).toMatchObject({vm: 'web', point: one.id, protected: true, was: 'already'});
	const list = await runQuiesce(['list', ...repository]);
	expect(list.stdout).toMatch(new RegExp(`^web@${one.id} .*\n {2}protected\n`, 'm'));
	expect(list.stdout.match(/protected/g)).toHaveLength(1);

	const rules = ['--keep-last', '1', '--keep-within', '1w'];
	expect(await runQuiesce(['prune', 'web', ...repository])).toMatchObject({
		code: 2,
		stderr: expect.stringContaining('no rule says which points to keep') as string,
	});
	expect((await runQuiesce(['prune', ...repository, '--keep-daily', '1.5'])).code).toBe(2);
	const all = await runQuiesce(['prune', ...repository, ...rules]);
	expect(all.stdout).toMatch(new RegExp(`^web:\nVERDICT +POINT +WHY\nkeep +${two.id} +--keep-within: since `));
	const dry = await runQuiesce(['prune', 'web', ...repository, '--keep-daily', '1', '--dry-run']);
	expect(dry).toMatchObject({code: 0, stderr: ''});
	expect(dry.stdout.split('\n').slice(1)).toEqual([
		`keep     ${two.id}  --keep-daily: 1 of 1, day 2026-11-21`,
		`keep     ${one.id}  protected`,
		`remove   ${full.id}  --keep-daily: day 2026-11-21 is covered`,
		'2 points kept, 1 would be removed; nothing was changed',
		'',
	]);
	const pruned = await runQuiesce(['prune', 'web', ...repository, '--keep-daily', '1', '--json']);
	expect(pruned.code).toBe(0);
	expect(jsonLines(pruned).map(({message_type}) => message_type)).toEqual(
		expect.arrayContaining(['decided', 'merging', 'progress', 'merged', 'removed', 'summary']),
	);
	expect(lastOf(pruned)).toMatchObject({kept: 2, removed: 1, hidden: 0, passed_over: []});
	expect((await runQuiesce(['prune', `web@${one.id}`, ...repository])).code).toBe(21);
	expect((await runQuiesce(['unprotect', `web@${one.id}`, ...repository])).code).toBe(0);
	const named = await runQuiesce(['prune', `web@${one.id}`, ...repository]);
	expect(named).toMatchObject({code: 0, stdout: expect.stringMatching(/^remove +\S+ +it was named$/m) as string});
	expect(named.stderr).toContain(`web: merging vda of ${one.id} into ${two.id}`);
	expect((await runQuiesce(['verify', '--deep', ...repository])).code).toBe(0);
	execFileSync('sha256sum', ['--quiet', '-c', 'SHA256SUMS'], {cwd: two.folder});
	expect(readdirSync(join(chain.repository.path, 'vms', 'web'))).toEqual([two.id]);
});

test('the exit code tells of a VM that is in use, and of damage that stood in the way', async () => {
	const chain = new PointChain(await emptyRepository(), {sizes: {vda: 1 << 20}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	const repository = ['-r', chain.repository.path];
	const holder = {pid: process.pid, run: 'r1', doing: 'backup since 08:00'};
	const lock = await takeLock(`points ${chain.repository.id} web`, 'the points', holder);
	const passed = await runQuiesce(['prune', ...repository, '--keep-last', '1', '--json']);
	expect(passed.code).toBe(11);
	expect(lastOf(passed)).toMatchObject({message_type: 'summary', passed_over: ['web']});
	const refused = await runQuiesce(['prune', 'web', ...repository, '--keep-last', '1', '--json']);
	expect(refused.code).toBe(11);
	expect(lastOf(refused)).toMatchObject({message_type: 'exit_error', code: 'LOCKED'});
	await lock.release();
	truncateSync(join(one.folder, 'vda.qcow2'), 200_000);
	const damaged = await runQuiesce(['prune', `web@${full.id}`, ...repository]);
	expect(damaged.code).toBe(30);
	expect(damaged.stderr).toMatch(/warning: web: vda of .* is not merged into .*: /);
});
