import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {expect, test} from 'vitest';
import {dyingWithUs} from '../../src/host/die-with-us.ts';
import {eventually, isRunning} from '../jobs/bare-vm.ts';

const MODULE = fileURLToPath(new URL('../../src/host/die-with-us.ts', import.meta.url));

const SCRIPT = `
	import {spawn} from 'node:child_process';
	const {dyingWithUs} = await import(${JSON.stringify(MODULE)});
	const child = spawn(...(await dyingWithUs('sleep', ['600'])), {stdio: 'ignore', detached: true});
	child.once('spawn', () => console.log(child.pid));
`;

test('a program that is started so does not outlive us', async () => {
	const node = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', SCRIPT];
	const parent = spawn(process.execPath, node, {stdio: ['ignore', 'pipe', 'inherit']});
	const [line] = (await once(parent.stdout, 'data')) as [Buffer];
	const pid = Number(line.toString());
	await eventually(() => nameOf(pid) === 'sleep');
	parent.kill('SIGKILL');
	await eventually(() => !isRunning(pid));
});

test('its arguments are handed over as they are', async () => {
	const [program, args] = await dyingWithUs('printf', ['%s|', '--pdeathsig', '', '-a b']);
	const child = spawn(program, args, {stdio: ['ignore', 'pipe', 'inherit']});
	const [bytes] = (await once(child.stdout, 'data')) as [Buffer];
	expect(bytes.toString()).toBe('--pdeathsig||-a b|');
});

function nameOf(pid: number): string {
	return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
}
