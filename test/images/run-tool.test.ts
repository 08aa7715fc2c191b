import {expect, test} from 'vitest';
import {runTool} from '../../src/images/run-tool.ts';

const sh = (script: string, rest = {}) => runTool({tool: 'sh', args: ['-c', script], object: 'disk vda', ...rest});

test('collects what a tool prints', async () => {
	await expect(sh('echo out; echo err >&2')).resolves.toEqual({exitCode: 0, stdout: 'out\n', stderr: 'err\n'});
});

test('a failure names the tool, the object and the last complaint', async () => {
	await expect(sh('echo first >&2; echo "sh: no room" >&2; exit 1')).rejects.toMatchObject({
		code: 'FAILED',
		message: 'sh failed on disk vda: no room',
	});
	await expect(sh('exit 7')).rejects.toThrow('sh failed on disk vda: exit code 7');
	await expect(sh('kill -9 $$')).rejects.toThrow('sh failed on disk vda: it was ended by SIGKILL');
});

test('an exit code may be an answer', async () => {
	await expect(sh('exit 3', {answers: [0, 3]})).resolves.toMatchObject({exitCode: 3});
});

test('a tool that is missing is called by its package', async () => {
	const path = process.env['PATH'];
	process.env['PATH'] = '/nowhere';
	try {
		const call = runTool({tool: 'qemu-img', args: [], object: 'disk vda'});
		await expect(call).rejects.toMatchObject({hint: 'Install it: apt-get install qemu-utils'});
	} finally {
		process.env['PATH'] = path;
	}
});

test('aborting ends the tool and rejects with the reason', async () => {
	const stop = new AbortController();
	let pid = 0;
	const call = sh('echo $$; exec sleep 60', {
		signal: stop.signal,
		onOutput: (text: string) => {
			pid = Number(text);
			stop.abort(new Error('enough'));
		},
	});
	await expect(call).rejects.toThrow('enough');
	expect(() => process.kill(pid, 0)).toThrow('ESRCH');
});

test('a tool that ignores SIGTERM is killed', async () => {
	const stop = new AbortController();
	let pid = 0;
	const call = sh('trap "" TERM; echo $$; while :; do read -r line < /dev/zero; done', {
		signal: stop.signal,
		onOutput: (text: string) => {
			pid = Number(text);
			stop.abort(new Error('enough'));
		},
	});
	await expect(call).rejects.toThrow('enough');
	expect(() => process.kill(pid, 0)).toThrow('ESRCH');
});

test('output without end does not fill the memory', async () => {
	await expect(sh('head -c 8000000 /dev/zero')).rejects.toThrow('it printed more than can be meant');
});
