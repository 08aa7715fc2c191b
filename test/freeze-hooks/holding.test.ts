import {readFile} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {outcome} from '../guest/command.ts';
import {mariadb} from './applications/mariadb.ts';
import {redisAppending} from './applications/redis.ts';
import {run, type Running} from './running.ts';
import {Writer} from './writer.ts';

async function writing(application: typeof mariadb, settings?: readonly string[]): Promise<Running & {writer: Writer}> {
	const running = await run(onTestFinished, application, settings);
	const writer = new Writer(running.server, running.client());
	await writer.begin();
	await writer.more(20);
	return {...running, writer};
}

/** Commits are held up: several of its own statements' time passes, and the writer stays where it is. */
async function expectHeld({client, writer}: {client: Running['client']; writer: Writer}): Promise<void> {
	const looking = client();
	const {committed} = writer;
	for (let n = 0; n < 50; n++) expect(await looking.ask('SELECT 1;')).toBe('1');
	looking.end();
	// The one under way at the freeze may have been told since.
	expect(writer.committed - committed).toBeLessThanOrEqual(1);
}

/** The session that holds the lock, in the server and on this side. */
async function holder({client, state}: Running): Promise<{session: string; pid: number}> {
	const sleeping = "SELECT id FROM information_schema.processlist WHERE command = 'Sleep' AND id <> CONNECTION_ID();";
	return {session: await client().ask(sleeping), pid: Number(await readFile(join(state, 'mysql/client'), 'utf8'))};
}

test('MariaDB: no commit from freeze to thaw, though the hook that froze has ended', async () => {
	const vm = await writing(mariadb);
	expect(await vm.hook('freeze')).toMatchObject({code: 0});
	await expectHeld(vm);
	expect(await vm.hook('thaw')).toMatchObject({code: 0});
	await vm.writer.more(20);
	await vm.writer.end();
});

test.each([
	['the server ends its session', (vm: Running, session: string) => vm.client().ask(`KILL ${session}; SELECT 'done';`)],
	['its client is killed', (_: Running, __: string, pid: number) => outcome('kill', ['-KILL', String(pid)])],
])('MariaDB: where %s before the thaw, the thaw says so, and commits go on', async (_, strike) => {
	const vm = await writing(mariadb);
	expect(await vm.hook('freeze')).toMatchObject({code: 0});
	const {session, pid} = await holder(vm);
	await strike(vm, session, pid);
	await vm.writer.more(20);
	const thawed = await vm.hook('thaw');
	expect(thawed).toMatchObject({code: 1});
	expect(thawed.stderr).toContain('the lock was lost before the thaw');
	await vm.writer.end();
});

test('MariaDB: commits go on at the deadline, if nobody thaws', async () => {
	const vm = await writing(mariadb, ['HOLD_SECONDS=1']);
	expect(await vm.hook('freeze')).toMatchObject({code: 0});
	await vm.writer.more(20);
	expect((await vm.hook('thaw')).code).toBe(1);
	await vm.writer.end();
});

test('MariaDB: the freeze is refused while another backup holds the lock, and nothing is held', async () => {
	const vm = await writing(mariadb, ['FREEZE_SECONDS=2']);
	const other = vm.client();
	expect(await other.ask("BACKUP STAGE START; SELECT 'begun';")).toBe('begun');
	const refused = await vm.hook('freeze');
	expect(refused).toMatchObject({code: 1});
	expect(refused.stderr).toMatch(/mysql: (ERROR|freeze failed)/);
	await vm.writer.more(20);
	await vm.writer.end();
});

test('MariaDB: the freeze is refused in time by a server that hangs, which goes on afterwards', async () => {
	const vm = await writing(mariadb, ['FREEZE_SECONDS=2']);
	vm.server.process.kill('SIGSTOP');
	const began = performance.now();
	expect((await vm.hook('freeze')).code).toBe(1);
	expect(performance.now() - began).toBeLessThan(20_000);
	vm.server.process.kill('SIGCONT');
	await vm.writer.more(20);
	await vm.writer.end();
});

test('MariaDB: a server that hangs at the thaw costs no more than some seconds, and goes on without a lock', async () => {
	const vm = await writing(mariadb);
	expect(await vm.hook('freeze')).toMatchObject({code: 0});
	vm.server.process.kill('SIGSTOP');
	expect((await vm.hook('thaw')).code).toBe(1);
	vm.server.process.kill('SIGCONT');
	await vm.writer.more(20);
	await vm.writer.end();
});

test('Redis: writes go on at the deadline, if nobody thaws, and the thaw says so', async () => {
	const vm = await writing(redisAppending, ['HOLD_SECONDS=1']);
	expect(await vm.hook('freeze')).toMatchObject({code: 0});
	await vm.writer.more(20);
	const thawed = await vm.hook('thaw');
	expect(thawed).toMatchObject({code: 1});
	expect(thawed.stderr).toContain('writes went on before the thaw');
	await vm.writer.end();
});

test('Redis: no write from freeze to thaw', async () => {
	const vm = await writing(redisAppending);
	expect(await vm.hook('freeze')).toMatchObject({code: 0});
	const {committed} = vm.writer;
	const looking = vm.client();
	for (let n = 0; n < 50; n++) expect(await looking.ask('PING')).toBe('PONG');
	expect(vm.writer.committed - committed).toBeLessThanOrEqual(1);
	expect(await vm.hook('thaw')).toMatchObject({code: 0});
	await vm.writer.more(20);
	await vm.writer.end();
});

test('Redis: the freeze is refused in time by a server that hangs, which goes on afterwards', async () => {
	const vm = await writing(redisAppending, ['FREEZE_SECONDS=2']);
	vm.server.process.kill('SIGSTOP');
	expect((await vm.hook('freeze')).code).toBe(1);
	vm.server.process.kill('SIGCONT');
	await vm.writer.more(20);
	await vm.writer.end();
});
