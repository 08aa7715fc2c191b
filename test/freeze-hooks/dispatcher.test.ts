import {chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {readScript} from '../../src/freeze-hooks/kit.ts';
import {type Finished, outcome} from '../guest/command.ts';
import {startGuest} from '../guest/guest.ts';
import {runQuiesce} from '../cli/run-quiesce.ts';

interface Dispatcher {
	readonly folder: string;
	call(action: string): Promise<Finished>;
	/** What hooks have noted, in order. */
	notes(): Promise<string[]>;
}

/** Scripts by name; each begins with what notes its call. */
async function dispatcher(
	hooks: Readonly<Record<string, string>>,
	settings: readonly string[] = [],
): Promise<Dispatcher> {
	const folder = await mkdtemp(join(tmpdir(), 'qsc-hook-'));
	onTestFinished(() => rm(folder, {recursive: true, force: true}));
	const program = join(folder, 'fsfreeze-hook');
	await writeFile(program, await readScript('fsfreeze-hook'), {mode: 0o755});
	await writeFile(`${program}.conf`, [`STATE_FOLDER=${folder}/state`, `NOTES=${folder}/notes`, ...settings].join('\n'));
	await writeFile(join(folder, 'notes'), '');
	await mkdir(`${program}.d`);
	for (const [name, script] of Object.entries(hooks)) {
		const hook = join(`${program}.d`, name);
		await writeFile(hook, `#!/bin/sh\necho "$1 ${name}" >>"$NOTES"\n${script}\n`);
		await chmod(hook, 0o755);
	}
	return {
		folder,
		call: action => outcome(program, [action]),
		notes: async () => (await readFile(join(folder, 'notes'), 'utf8')).split('\n').slice(0, -1),
	};
}

test('calls the hooks by their names at a freeze, and the other way round at the thaw', async () => {
	const hooks = await dispatcher({'20-b': '', '10-a': '', '30 c': ''});
	expect((await hooks.call('freeze')).code).toBe(0);
	expect((await hooks.call('thaw')).code).toBe(0);
	expect(await hooks.notes()).toEqual([
		'freeze 10-a',
		'freeze 20-b',
		'freeze 30 c',
		'thaw 30 c',
		'thaw 20-b',
		'thaw 10-a',
	]);
	expect(await readdir(join(hooks.folder, 'state'))).toEqual([]);
});

test('refuses the freeze if one application does not become quiet, and lets those go that were', async () => {
	const hooks = await dispatcher({a: '', b: '[ $1 = thaw ] || { echo "the ledger is open"; exit 3; }', c: ''});
	const {code, stderr} = await hooks.call('freeze');
	expect(code).toBe(1);
	expect(stderr).toContain('b: the ledger is open');
	expect(stderr).toContain('b: freeze failed with status 3');
	expect(await hooks.notes()).toEqual(['freeze a', 'freeze b', 'thaw b', 'thaw a']);
	expect(await readdir(join(hooks.folder, 'state'))).toEqual([]);
});

test('ends a hook that takes too long, and counts the time of all together', async () => {
	const hooks = await dispatcher({a: '[ $1 = thaw ] || sleep 1.2', b: '[ $1 = thaw ] || sleep 600'}, [
		'FREEZE_SECONDS=3',
	]);
	const began = performance.now();
	const {code, stderr} = await hooks.call('freeze');
	expect(code).toBe(1);
	expect(stderr).toMatch(/b: freeze failed with status 124, after [12] s/);
	expect(performance.now() - began).toBeLessThan(6_000);
	expect((await hooks.notes()).slice(2)).toEqual(['thaw b', 'thaw a']);
});

test('thaws all applications, whichever thaw fails', async () => {
	const hooks = await dispatcher({a: '', b: '[ $1 = freeze ]', c: ''});
	expect((await hooks.call('freeze')).code).toBe(0);
	const {code, stderr} = await hooks.call('thaw');
	expect(code).toBe(1);
	expect(stderr).toContain('b: thaw failed with status 1');
	expect((await hooks.notes()).slice(3)).toEqual(['thaw c', 'thaw b', 'thaw a']);
});

test('lets go what an earlier freeze has left, before it freezes', async () => {
	const hooks = await dispatcher({a: 'ls "$STATE" | grep -v log >>"$NOTES"; : >"$STATE/held"'});
	await hooks.call('freeze');
	expect((await hooks.call('freeze')).code).toBe(0);
	expect(await hooks.notes()).toEqual(['freeze a', 'thaw a', 'held', 'freeze a']);
});

test('calls nothing that an editor or a package has left, and nothing that is not to be run', async () => {
	const hooks = await dispatcher({'a': '', 'a~': '', 'a.orig': '', 'a.dpkg-old': '', 'b.sample': ''});
	await writeFile(join(hooks.folder, 'fsfreeze-hook.d/plain'), '#!/bin/sh\nexit 1\n');
	expect((await hooks.call('freeze')).code).toBe(0);
	expect(await hooks.notes()).toEqual(['freeze a']);
	expect((await hooks.call('something')).code).toBe(2);
});

test('in a real guest, the agent freezes nothing when an application does not become quiet', async () => {
	await using guest = await startGuest({name: 'hooked', stamps: 'none'});
	const script = Buffer.from(await readScript('fsfreeze-hook')).toString('base64');
	const hook = Buffer.from('#!/bin/sh\necho "$1" >>/run/calls\n[ ! -e /run/busy ] || [ $1 = thaw ]\n').toString(
		'base64',
	);
	await guest.read(
		`mkdir -p /bin/hook.d && echo ${script} | base64 -d >/bin/hook && echo ${hook} | base64 -d >/bin/hook.d/shop && ` +
			'chmod 755 /bin/hook /bin/hook.d/shop && touch /run/busy',
	);
	const freeze = (): ReturnType<typeof runQuiesce> =>
		runQuiesce(['freeze', '--agent', guest.agentPath, '--', 'echo', 'cut']);
	const refused = await freeze();
	expect(refused).toMatchObject({code: 24, stdout: ''});
	expect(refused.stderr).toContain('hook');
	expect(await guest.read('touch /mnt/a/x && cat /run/calls')).toBe('freeze\nthaw\nthaw');
	await guest.read('rm /run/busy /run/calls');
	expect(await freeze()).toMatchObject({code: 0, stdout: 'cut\n'});
	expect(await guest.read('cat /run/calls')).toBe('freeze\nthaw');
});
