import {chmod, mkdir, mkdtemp, readFile, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test, vi} from 'vitest';
import {installHooks} from '../../src/freeze-hooks/install.ts';
import {type Finished, outcome} from '../guest/command.ts';

/** In place of a shell for MongoDB, which Debian does not have: a counted lock in a file, as the server keeps it. */
const SHELL = `#!/bin/sh
for last; do :; done
lock=\${0%/*}/lock
n=$(cat "$lock")
case $last in
*fsyncLock\\(\\)*) echo $((n + 1)) >"$lock"; echo locked ;;
*fsyncUnlock*) if [ "$n" -gt 0 ]; then echo $((n - 1)) >"$lock"; echo unlocked; else echo 'was not locked'; fi ;;
*here*) echo here ;;
esac
`;

async function mongo(settings: readonly string[] = []): Promise<{
	hook: (action: string) => Promise<Finished>;
	locks: () => Promise<string>;
}> {
	const root = await mkdtemp(join(tmpdir(), 'qsc-hook-'));
	onTestFinished(() => rm(root, {recursive: true, force: true}));
	await mkdir(join(root, 'etc/qemu'), {recursive: true});
	await mkdir(join(root, 'bin'));
	await writeFile(join(root, 'bin/mongosh'), SHELL);
	await chmod(join(root, 'bin/mongosh'), 0o755);
	await writeFile(join(root, 'bin/lock'), '0\n');
	await writeFile(
		join(root, 'etc/qemu/fsfreeze-hook.conf'),
		[`STATE_FOLDER=${root}/state`, `PATH=${root}/bin:$PATH`, ...settings].join('\n'),
	);
	await installHooks({root, hooks: ['mongodb'], replace: false, dryRun: false});
	return {
		hook: action => outcome(join(root, 'etc/qemu/fsfreeze-hook'), [action]),
		locks: async () => (await readFile(join(root, 'bin/lock'), 'utf8')).trim(),
	};
}

test('MongoDB: is locked from freeze to thaw', async () => {
	const {hook, locks} = await mongo();
	expect(await hook('freeze')).toMatchObject({code: 0});
	expect(await locks()).toBe('1');
	expect(await hook('thaw')).toMatchObject({code: 0});
	expect(await locks()).toBe('0');
});

test('MongoDB: is unlocked at the deadline, if nobody thaws, and the thaw says so', async () => {
	const {hook, locks} = await mongo(['HOLD_SECONDS=1']);
	expect(await hook('freeze')).toMatchObject({code: 0});
	await vi.waitFor(async () => {
		expect(await locks()).toBe('0');
	}, 10_000);
	const thawed = await hook('thaw');
	expect(thawed.code).toBe(1);
	expect(thawed.stderr).toContain('the lock was lost before the thaw');
});
