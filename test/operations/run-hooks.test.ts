import {mkdtemp, readFile, rm, writeFile} from 'node:fs/promises';
import {createServer} from 'node:http';
import {once} from 'node:events';
import type {AddressInfo} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import {type HookActions, hooksOf, type RunHooks} from '../../src/operations/run-hooks.ts';

let folder: string;
let told: string[];
const never = new AbortController().signal;

beforeEach(async () => {
	told = [];
	folder = await mkdtemp(join(tmpdir(), 'qsc-hooks-'));
	return () => rm(folder, {recursive: true, force: true});
});

const hooks = (actions: HookActions): RunHooks => hooksOf(actions, {VM: 'web1'}, text => told.push(text));
const sh = (script: string): {command: string[]} => ({command: ['sh', '-c', script]});

test('a command knows the run and the moment', async () => {
	const file = join(folder, 'env');
	await hooks({thawed: [{does: sh(`env >${file}`)}]}).at('thawed', never, {
		POINT: 'web1@x',
		SECONDS: 1.5,
		NONE: undefined,
	});
	const lines = (await readFile(file, 'utf8')).split('\n').filter(line => line.startsWith('QUIESCE_'));
	expect(lines).toEqual(
		expect.arrayContaining(['QUIESCE_MOMENT=thawed', 'QUIESCE_VM=web1', 'QUIESCE_POINT=web1@x', 'QUIESCE_SECONDS=1.5']),
	);
	expect(lines.some(line => line.startsWith('QUIESCE_NONE'))).toBe(false);
});

test.each(['run-start', 'pre-freeze', 'frozen'] as const)('a command that fails at %s ends the run', async moment => {
	const all = hooks({[moment]: [{does: sh('exit 3')}]});
	await expect(all.at(moment, never)).rejects.toMatchObject({
		code: 'FAILED',
		message: `hook ${moment}: sh ended with status 3`,
	});
	await hooks({[moment]: [{does: sh('exit 3'), whenItFails: 'warn'}]}).at(moment, never);
	expect(told).toEqual([`hook ${moment}: sh ended with status 3`]);
});

test.each(['thawed', 'copied'] as const)('one at %s is a warning, unless it is said to end the run', async moment => {
	await hooks({[moment]: [{does: sh('exit 3')}]}).at(moment, never);
	expect(told).toEqual([`hook ${moment}: sh ended with status 3`]);
	await expect(hooks({[moment]: [{does: sh('exit 3'), whenItFails: 'abort'}]}).at(moment, never)).rejects.toThrow(
		'status 3',
	);
});

test.each(['success', 'failure'] as const)('one at %s is a warning: the run is over', async moment => {
	const cancelled = AbortSignal.abort(new Error('cancelled'));
	await hooks({[moment]: [{does: sh('exit 3'), whenItFails: 'abort'}, {does: sh(`: >${folder}/${moment}`)}]}).at(
		moment,
		cancelled,
	);
	expect(told).toEqual([`hook ${moment}: sh ended with status 3`]);
	expect(await readFile(join(folder, moment), 'utf8')).toBe('');
});

test('what takes too long is ended; within the freeze after 3 s, whatever is said', async () => {
	const began = performance.now();
	await expect(
		hooks({'pre-freeze': [{does: {command: ['sleep', '600']}, timeoutMs: 200}]}).at('pre-freeze', never),
	).rejects.toThrow('hook pre-freeze: sleep ran longer than 0.2 s');
	await expect(
		hooks({frozen: [{does: {command: ['sleep', '600']}, timeoutMs: 60_000}]}).at('frozen', never),
	).rejects.toThrow('hook frozen: sleep ran longer than 3 s');
	expect(performance.now() - began).toBeLessThan(9_000);
});

test('a run that is cancelled ends its command', async () => {
	const cancellation = new AbortController();
	const file = join(folder, 'begun');
	const done = hooks({'run-start': [{does: sh(`: >${file}; exec sleep 600`), whenItFails: 'warn'}]}).at(
		'run-start',
		cancellation.signal,
	);
	cancellation.abort(new Error('cancelled'));
	await expect(done).rejects.toThrow('cancelled');
});

test('what cannot be run is named', async () => {
	await expect(hooks({'run-start': [{does: {command: ['/none/such']}}]}).at('run-start', never)).rejects.toThrow(
		'hook run-start: cannot run /none/such',
	);
});

test('a ping asks for its URL, or for the one in a file, and is a warning at the worst', async () => {
	const asked: string[] = [];
	const server = createServer((request, response) => {
		asked.push(`${request.method ?? ''} ${request.url ?? ''}`);
		if (request.url === '/silent') return;
		response.statusCode = request.url === '/gone' ? 404 : 200;
		response.end('ok');
	});
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	onTestFinished(() => {
		server.closeAllConnections();
		server.close();
	});
	const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
	const file = join(folder, 'url');
	await writeFile(file, `${base}/secret\n`);
	await hooks({
		'run-start': [
			{does: {url: `${base}/start`}},
			{does: {urlIn: file}},
			{does: {url: `${base}/gone`}},
			{does: {url: `${base}/silent`}, timeoutMs: 200},
			{does: {url: 'http://127.0.0.1:1/secret'}},
			{does: {urlIn: `${file}.none`}},
		],
	}).at('run-start', never);
	expect(asked).toEqual(['GET /start', 'GET /secret', 'GET /gone', 'GET /silent']);
	expect(told).toHaveLength(4);
	expect(told[0]).toMatch(/^hook run-start: 127\.0\.0\.1:\d+ answered with status 404$/);
	expect(told[1]).toMatch(/^hook run-start: no answer from 127\.0\.0\.1:\d+: .*time/);
	expect(told[2]).toContain('no answer from 127.0.0.1:1: ');
	expect(told.join('\n')).not.toContain('secret');
});
