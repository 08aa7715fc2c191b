import {chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {installHooks} from '../../src/freeze-hooks/install.ts';
import {FREEZE_HOOKS, readScript} from '../../src/freeze-hooks/kit.ts';
import {outcome} from '../guest/command.ts';

async function newRoot(): Promise<string> {
	const root = await mkdtemp(join(tmpdir(), 'qsc-root-'));
	onTestFinished(() => rm(root, {recursive: true, force: true}));
	return root;
}

const plainly = {replace: false, dryRun: false};

test('puts what calls the hooks, its settings and the hooks where an agent looks for them', async () => {
	const root = await newRoot();
	const umask = process.umask(0o077);
	const files = await installHooks({root, hooks: ['mysql', 'template'], ...plainly}).finally(() =>
		process.umask(umask),
	);
	expect(files.map(({path, change}) => [path.slice(root.length), change])).toEqual([
		['/etc/qemu/fsfreeze-hook', 'new'],
		['/etc/qemu/fsfreeze-hook.conf', 'new'],
		['/etc/qemu/qemu-ga.conf', 'new'],
		['/etc/qemu/fsfreeze-hook.d/mysql', 'new'],
		['/etc/qemu/fsfreeze-hook.d/template', 'new'],
	]);
	for (const [{path}, mode] of files.map((file, index) => [file, [0o755, 0o600, 0o644][index] ?? 0o755] as const)) {
		expect((await stat(path)).mode & 0o777).toBe(mode);
	}
	// What is to be filled in refuses, so that nobody relies on it.
	await writeFile(files[1]!.path, `STATE_FOLDER=${root}/state\n`);
	await rm(files[3]!.path);
	expect((await outcome(files[0]!.path, ['freeze'])).code).toBe(1);
});

test('keeps settings, and replaces other files only when told to, beside which they then stay', async () => {
	const root = await newRoot();
	await installHooks({root, hooks: ['redis'], ...plainly});
	const at = (name: string): string => join(root, 'etc/qemu', name);
	await writeFile(at('fsfreeze-hook'), 'of someone else');
	await chmod(at('fsfreeze-hook'), 0o700);
	await writeFile(at('fsfreeze-hook.conf'), 'REDIS_PORT=1');
	const again = {root, hooks: ['redis', 'mysql']};
	await expect(installHooks({...again, ...plainly})).rejects.toMatchObject({code: 'REFUSED'});
	await expect(stat(at('fsfreeze-hook.d/mysql'))).rejects.toThrow('ENOENT');
	const changes = (await installHooks({...again, replace: true, dryRun: true})).map(({change}) => change);
	expect(changes).toEqual(['replaced', 'kept', 'kept', 'unchanged', 'new']);
	expect(await readFile(at('fsfreeze-hook'), 'utf8')).toBe('of someone else');
	await installHooks({...again, replace: true, dryRun: false});
	expect(await readFile(at('fsfreeze-hook.orig'), 'utf8')).toBe('of someone else');
	expect(await readFile(at('fsfreeze-hook'), 'utf8')).toBe(await readScript('fsfreeze-hook'));
	expect(await readFile(at('fsfreeze-hook.conf'), 'utf8')).toBe('REDIS_PORT=1');
});

test('keeps each file that it replaces under a name of its own, through no link', async () => {
	const root = await newRoot();
	const outside = join(await newRoot(), 'outside');
	await installHooks({root, hooks: ['redis'], ...plainly});
	const hook = join(root, 'etc/qemu/fsfreeze-hook.d/redis');
	await symlink(outside, `${hook}.orig`);
	for (const text of ['first', 'second']) {
		await writeFile(hook, text);
		await installHooks({root, hooks: ['redis'], replace: true, dryRun: false});
	}
	await expect(stat(outside)).rejects.toThrow('ENOENT');
	expect(await readFile(`${hook}.1.orig`, 'utf8')).toBe('first');
	expect(await readFile(`${hook}.2.orig`, 'utf8')).toBe('second');
	expect(await readFile(hook, 'utf8')).toBe(await readScript('redis'));
});

test.each(['etc', 'etc/qemu', 'etc/qemu/fsfreeze-hook', 'etc/qemu/fsfreeze-hook.d'])(
	'follows no link out of the root: %s',
	async link => {
		const root = await newRoot();
		const outside = await newRoot();
		await mkdir(join(root, link, '..'), {recursive: true});
		await symlink(outside, join(root, link));
		await expect(installHooks({root, hooks: ['redis'], replace: true, dryRun: false})).rejects.toMatchObject({
			code: 'USAGE',
		});
		expect((await outcome('ls', ['-A', outside])).stdout).toBe('');
	},
);

test('refuses a hook that there is not, and a root that there is not', async () => {
	const root = await newRoot();
	await expect(installHooks({root, hooks: ['oracle'], ...plainly})).rejects.toMatchObject({code: 'USAGE'});
	await expect(installHooks({root: `${root}/none`, hooks: ['redis'], ...plainly})).rejects.toThrow(`${root}/none`);
});

test('the scripts are free of what shells read differently', async () => {
	const scripts = ['fsfreeze-hook', ...FREEZE_HOOKS.map(({name}) => name)].map(name =>
		join(import.meta.dirname, '../../src/freeze-hooks/kit', name),
	);
	expect(await outcome('shellcheck', ['--shell=sh', ...scripts])).toMatchObject({code: 0, stdout: ''});
});
