import {execFile} from 'node:child_process';
import {createHash} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {promisify} from 'node:util';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import {exportPoint} from '../../../src/operations/archive/export-point.ts';
import {serve, type ServeRequest} from '../../../src/operations/serve/serve.ts';
import type {Point} from '../../../src/repository/points.ts';
import {openOrCreateRepository} from '../../../src/repository/repository.ts';
import {daemonsLeft, runQuiesce, startQuiesce} from '../../cli/run-quiesce.ts';
import {eventually, ownRuntimeFolder, processesNaming} from '../../jobs/bare-vm.ts';
import {expectNothingLeftOutside} from '../../jobs/backups.ts';
import {collect} from '../../jobs/collect.ts';
import {makeCertificates, makeKeys} from '../../nbd/certificates.ts';
import {corrupt, temporaryFolder} from '../../repository/fixture.ts';
import {PointChain} from '../../repository/point-chain.ts';

const run = promisify(execFile);
const signal = new AbortController().signal;

beforeEach(() => {
	ownRuntimeFolder();
});

interface Scene {
	readonly chain: PointChain;
	readonly tip: Point;
	readonly held: ReadonlyMap<string, Buffer>;
	readonly source: Extract<ServeRequest['source'], {kind: 'point'}>;
}

async function increments(): Promise<Scene> {
	const chain = new PointChain(await openOrCreateRepository(temporaryFolder()));
	const tip = await chain.on(await chain.on(null));
	const held = chain.held.get(tip.id)!;
	return {chain, tip, held, source: {kind: 'point', repository: chain.repository.path, vm: 'web', point: tip.id}};
}

async function archived({source}: Scene, compression: 'none' | 'zstd' = 'none'): Promise<string> {
	const file = path.join(temporaryFolder(), 'web.vma');
	const target = {kind: 'file', path: file} as const;
	await collect(exportPoint({...source, format: 'vma', compression, target, signal}));
	return file;
}

async function serving(source: ServeRequest['source'], rest: Partial<ServeRequest> = {}) {
	const served = await serve({source, writableOverlay: false, signal, onProgress: () => undefined, ...rest});
	onTestFinished(() => served[Symbol.asyncDispose]());
	return served;
}

/** What others read of a disk: libnbd over several connections, and QEMU. */
async function expectRead(uri: string, content: Buffer): Promise<void> {
	const file = path.join(temporaryFolder(), 'copy.raw');
	await run('nbdcopy', ['--connections=4', uri, file]);
	expect(fs.readFileSync(file).equals(content)).toBe(true);
	fs.writeFileSync(file, content);
	expect((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri, file])).stdout).toContain('identical');
}

/** Of every file in a folder. */
function checksums(folder: string): Record<string, string> {
	const files = fs.readdirSync(folder, {recursive: true, withFileTypes: true}).filter(entry => entry.isFile());
	return Object.fromEntries(
		files.map(({parentPath, name}) => {
			const file = path.join(parentPath, name);
			return [file, createHash('sha256').update(fs.readFileSync(file)).digest('hex')];
		}),
	);
}

test.each(['point', 'archive', 'archive without an index'] as const)('the disks of a %s, to be read', async kind => {
	const scene = await increments();
	const file = kind === 'point' ? undefined : await archived(scene);
	if (file !== undefined && kind !== 'archive') fs.rmSync(`${file}.index.json`);
	const socket = path.join(temporaryFolder(), 'a socket');
	const source = file === undefined ? scene.source : ({kind: 'archive', path: file} as const);
	const {disks} = await serving(source, {address: {unix: socket}});
	expect(fs.statSync(socket).mode & 0o777).toBe(0o600);
	expect(disks.map(({disk}) => disk)).toEqual(['vda', 'vdb']);
	for (const {disk, uri} of disks) await expectRead(uri, scene.held.get(disk)!);
	const {stdout} = await run('nbdinfo', ['--json', disks[0]!.uri]);
	expect(JSON.parse(stdout)).toMatchObject({exports: [{is_read_only: true, can_multi_conn: true}]});
	expect((await run('nbdinfo', ['--map', disks[0]!.uri])).stdout).toContain('zero');
	await expect(run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', disks[0]!.uri])).rejects.toThrow(/Permission denied/);
});

test.each(['point', 'archive'] as const)('what is written over a %s is thrown away', async kind => {
	const scene = await increments();
	const file = kind === 'point' ? undefined : await archived(scene);
	const before = [checksums(scene.chain.repository.path), file === undefined ? {} : checksums(path.dirname(file))];
	const scratch = temporaryFolder();
	const socket = path.join(temporaryFolder(), 'socket');
	const source = file === undefined ? scene.source : ({kind: 'archive', path: file} as const);
	const served = await serving(source, {address: {unix: socket}, writableOverlay: true, scratch});
	expect(fs.statSync(socket).mode & 0o777).toBe(0o600);
	const {uri} = served.disks[0]!;
	await run('qemu-io', ['-f', 'raw', '-c', 'write -P 0x5a 65000 3000', '-c', 'flush', uri]);
	const changed = Buffer.from(scene.held.get('vda')!).fill(0x5a, 65_000, 68_000);
	await expectRead(uri, changed);
	await served[Symbol.asyncDispose]();
	expect(fs.readdirSync(scratch)).toEqual([]);
	expect(fs.existsSync(socket)).toBe(false);
	expect([checksums(scene.chain.repository.path), file === undefined ? {} : checksums(path.dirname(file))]).toEqual(
		before,
	);
	expectNothingLeftOutside(temporaryFolder());
});

test('over TCP there is TLS, with a certificate or a key', async () => {
	const {source, held} = await increments();
	const folder = temporaryFolder();
	const {server, authority} = makeCertificates(folder);
	const address = {host: '127.0.0.1', port: 0};
	await expect(serving(source, {address})).rejects.toMatchObject({code: 'USAGE'});
	const sure = await serving(source, {address, tls: {kind: 'certificate', ...server, clientAuthority: authority}});
	const content = held.get('vdb')!;
	const copy = path.join(folder, 'copy.raw');
	const {uri} = sure.disks[1]!;
	expect(uri).toMatch(/^nbds:\/\/127\.0\.0\.1:\d+\/vdb$/);
	await run('nbdcopy', [`${uri}?tls-certificates=${folder}`, copy]);
	expect(fs.readFileSync(copy).equals(content)).toBe(true);
	const {key, file, identity} = makeKeys(folder, 'alice');
	const shared = await serving(source, {address, tls: {kind: 'psk', keys: new Map([[identity, key]])}});
	const named = `${shared.disks[1]!.uri.replace('nbds://', `nbds://${identity}@`)}?tls-psk-file=${file}`;
	await run('nbdcopy', [named, copy]);
	expect(fs.readFileSync(copy).equals(content)).toBe(true);
	await expect(run('nbdinfo', [shared.disks[1]!.uri.replace('nbds', 'nbd')])).rejects.toThrow(/not supported/);
});

test('nothing that is damaged, compressed or unknown is served, and nothing is left of it', async () => {
	const scene = await increments();
	const zipped = await archived(scene, 'zstd');
	await expect(serving({kind: 'archive', path: zipped})).rejects.toThrow(/is compressed/);
	await expect(serving({...scene.source, only: ['vdx']})).rejects.toMatchObject({code: 'USAGE'});
	const file = await archived(scene);
	fs.truncateSync(file, fs.statSync(file).size - 512);
	await expect(serving({kind: 'archive', path: file})).rejects.toMatchObject({code: 'DAMAGED'});
	corrupt(path.join(scene.tip.folder, 'vda.qcow2'), 300_000);
	await expect(serving(scene.source)).rejects.toMatchObject({code: 'DAMAGED'});
	expectNothingLeftOutside(temporaryFolder());
});

test('a command has the URIs, and its exit status is ours; without one a signal is the end', async () => {
	const {source, tip, held} = await increments();
	const copy = path.join(temporaryFolder(), 'copy.raw');
	const named = ['serve', `web@${tip.id}`, '-r', source.repository];
	const script = 'nbdcopy "$QUIESCE_URI_vda" "$1" && echo "$QUIESCE_EXPORTS" && exit 7';
	const ran = await runQuiesce([...named, '--', 'sh', '-c', script, 'sh', copy]);
	expect(ran, ran.stderr).toMatchObject({code: 7});
	expect((JSON.parse(ran.stdout) as {disk: string}[]).map(({disk}) => disk)).toEqual(['vda', 'vdb']);
	expect(fs.readFileSync(copy).equals(held.get('vda')!)).toBe(true);
	const waiting = startQuiesce([...named, '--json', '--disk', 'vdb']);
	await waiting.says(/"serving"/);
	waiting.kill('SIGTERM');
	const {code, stdout} = await waiting.ended;
	expect(code).toBe(0);
	expect(JSON.parse(stdout)).toMatchObject({message_type: 'serving', disks: [{disk: 'vdb'}], writable: false});
});

test('killed, it leaves no process that has the point open', async () => {
	const {source, tip} = await increments();
	const socket = path.join(temporaryFolder(), 'socket');
	const scratch = temporaryFolder();
	const overlay = ['--writable-overlay', '--listen', socket, '--scratch', scratch];
	const waiting = startQuiesce(['serve', `web@${tip.id}`, '-r', source.repository, ...overlay, '--json']);
	await waiting.says(/"serving"/);
	expect(processesNaming(socket).length).toBeGreaterThan(0);
	waiting.kill('SIGKILL');
	await waiting.ended;
	await eventually(async () => {
		const daemons = await daemonsLeft();
		return processesNaming(socket).length + daemons.length === 0;
	});
});

test('a socket that nobody listens on is made anew, and no other file is touched', async () => {
	const {source, tip} = await increments();
	const socket = path.join(temporaryFolder(), 'socket');
	const args = ['serve', `web@${tip.id}`, '-r', source.repository, '--listen', socket, '--json'];
	const first = startQuiesce(args);
	await first.says(/"serving"/);
	expect(await runQuiesce(args)).toMatchObject({
		code: 2,
		stderr: expect.stringContaining('another program listens on it') as string,
	});
	first.kill('SIGKILL');
	await first.ended;
	expect(fs.statSync(socket).isSocket()).toBe(true);
	const second = startQuiesce(args);
	await second.says(/"serving"/);
	second.kill('SIGTERM');
	const {code, stderr} = await second.ended;
	expect(code).toBe(0);
	expect(stderr).toContain('serving no longer');
	expect(stderr).not.toContain('undoing');
	fs.writeFileSync(socket, 'a letter');
	expect(await runQuiesce(args)).toMatchObject({
		code: 2,
		stderr: expect.stringContaining('exists, and is no socket') as string,
	});
	expect(fs.readFileSync(socket, 'utf8')).toBe('a letter');
});
