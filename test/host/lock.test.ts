import {spawn} from 'node:child_process';
import {createHash, randomUUID} from 'node:crypto';
import {once} from 'node:events';
import net from 'node:net';
import {createInterface} from 'node:readline';
import {fileURLToPath} from 'node:url';
import {expect, onTestFinished, test} from 'vitest';
import {askHolder, isLocked, LockedError, takeLock} from '../../src/host/lock.ts';

const holder = {pid: process.pid, run: 'run1', doing: 'backup since 08:00'};

function newKey(): string {
	return `test ${randomUUID()}`;
}

async function refusalOf(key: string): Promise<LockedError> {
	const refusal = await takeLock(key, 'the VM web', {...holder, run: 'run2'}).catch((error: unknown) => error);
	expect(refusal).toBeInstanceOf(LockedError);
	return refusal as LockedError;
}

/** Something else that holds the name, in any language. */
async function squatter(key: string, serve: (client: net.Socket) => void): Promise<void> {
	const name = createHash('sha256').update(key).digest('hex').slice(0, 32);
	const clients = new Set<net.Socket>();
	const server = net.createServer(client => {
		clients.add(client);
		client.on('error', () => undefined);
		serve(client);
	});
	server.listen({path: `\0quiesce-${name}`});
	await once(server, 'listening');
	onTestFinished(() => {
		server.close();
		for (const client of clients) client.destroy();
	});
}

test('a lock is held once, by the one who took it first', async () => {
	const key = newKey();
	const lock = await takeLock(key, 'the VM web', holder);
	expect(await isLocked(key)).toBe(true);
	const refusal = await refusalOf(key);
	expect(refusal).toMatchObject({
		code: 'LOCKED',
		message: `the VM web is in use by backup since 08:00 (run run1, process ${process.pid})`,
		hint: 'Wait until that run has ended, or end it. `quiesce thaw` ends a freeze that lasts.',
		holder,
	});
	expect(await isLocked(newKey())).toBe(false);
	await lock.release();
	expect(await isLocked(key)).toBe(false);
	await (await takeLock(key, 'the VM web', holder)).release();
});

test('of many who want it at once one gets it', async () => {
	const key = newKey();
	const results = await Promise.allSettled(Array.from({length: 20}, () => takeLock(key, 'the VM', holder)));
	const taken = results.flatMap(result => (result.status === 'fulfilled' ? [result.value] : []));
	expect(taken).toHaveLength(1);
	await taken[0]!.release();
});

test('a lock goes with its holder, also by SIGKILL', async () => {
	const key = newKey();
	const source = fileURLToPath(new URL('../../src/host/lock.ts', import.meta.url));
	const program = `
		import {takeLock} from ${JSON.stringify(source)};
		await takeLock(${JSON.stringify(key)}, 'it', {pid: process.pid, run: 'other', doing: 'sleep'});
		console.log('taken');
		setTimeout(() => {}, 60_000);`;
	const child = spawn(process.execPath, ['--input-type=module', '-e', program], {stdio: ['ignore', 'pipe', 'inherit']});
	onTestFinished(() => {
		child.kill('SIGKILL');
	});
	await once(createInterface({input: child.stdout}), 'line');
	expect(await refusalOf(key)).toMatchObject({holder: {pid: child.pid, run: 'other', doing: 'sleep'}});
	child.kill('SIGKILL');
	await once(child, 'exit');
	expect(await isLocked(key)).toBe(false);
	await (await takeLock(key, 'it', holder)).release();
});

test('a lock does not keep its process alive', async () => {
	const source = fileURLToPath(new URL('../../src/host/lock.ts', import.meta.url));
	const program = `
		import {takeLock} from ${JSON.stringify(source)};
		await takeLock(${JSON.stringify(newKey())}, 'it', {pid: process.pid, run: 'other', doing: 'nothing'});`;
	const child = spawn(process.execPath, ['--input-type=module', '-e', program], {stdio: 'inherit'});
	expect(await once(child, 'exit')).toEqual([0, null]);
});

test('a holder answers what it is asked, and says who it is to everyone else', async () => {
	const key = newKey();
	const lock = await takeLock(key, 'it', holder, line => {
		return line === 'fail' ? Promise.reject(new Error('no')) : Promise.resolve(`heard ${line}`);
	});
	onTestFinished(() => lock.release());
	expect(await askHolder(key, 'one two')).toBe('heard one two');
	expect(JSON.parse((await askHolder(key, ''))!)).toEqual(holder);
	expect(await askHolder(key, 'fail')).toBe('');
	expect(await askHolder(newKey(), 'one')).toBeUndefined();
	expect((await refusalOf(key)).holder).toEqual(holder);
});

test.each([
	['garbage', 'nonsense\n'],
	['another shape', '{"pid":"7"}\n'],
	['no JSON object', 'null\n'],
	['half a line', '{"pid":'],
	['nothing', ''],
	['a line without an end', 'x'.repeat(1 << 20)],
	['what would steer a terminal', `${JSON.stringify({pid: 7, run: 'x', doing: '\u001b[2J'})}\n`],
])('a holder that answers with %s and leaves holds it all the same', async (_, answer) => {
	const key = newKey();
	await squatter(key, client => client.end(answer));
	expect(await isLocked(key)).toBe(true);
	const refusal = await refusalOf(key);
	expect(refusal.message).toBe('the VM web is in use by another process');
	expect(refusal.holder).toBeUndefined();
});

test('a holder that never comes to an end of its answer holds it, and is not waited for longer than five seconds', async () => {
	const [silent, dripping] = [newKey(), newKey()];
	await squatter(silent, () => undefined);
	await squatter(dripping, client => {
		const drip = setInterval(() => client.write('x'), 100);
		client.once('close', () => {
			clearInterval(drip);
		});
	});
	const start = performance.now();
	const refusals = await Promise.all([refusalOf(silent), refusalOf(dripping)]);
	expect(performance.now() - start).toBeLessThan(6_500);
	for (const refusal of refusals) expect(refusal.holder).toBeUndefined();
});

test('clients that hold on do not delay the release', async () => {
	const key = newKey();
	const lock = await takeLock(key, 'it', holder);
	const name = createHash('sha256').update(key).digest('hex').slice(0, 32);
	const client = net.connect({path: `\0quiesce-${name}`});
	onTestFinished(() => {
		client.destroy();
	});
	await once(client, 'connect');
	// A second one that is answered shows that the first was let in.
	expect(await isLocked(key)).toBe(true);
	const start = performance.now();
	await lock.release();
	expect(performance.now() - start).toBeLessThan(1_000);
	expect(await isLocked(key)).toBe(false);
});
