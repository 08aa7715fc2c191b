import {execFile} from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import {promisify} from 'node:util';
import {afterAll, describe, expect, onTestFinished, test} from 'vitest';
import {NbdClient} from '../../src/nbd/client.ts';
import {NbdError} from '../../src/nbd/errors.ts';
import * as options from '../../src/nbd/options.ts';
import {OPTION} from '../../src/nbd/protocol.ts';
import {serveNbd} from '../../src/nbd/server.ts';
import type {ClientTls, ServerTls} from '../../src/nbd/tls.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {makeCertificates, makeKeys} from './certificates.ts';
import {memoryExport, sampleContent} from './memory-export.ts';
import {startNbdkit} from './nbdkit.ts';
import {RawClient} from './raw-client.ts';

const SIZE = 3 * 1024 * 1024 + 512;
const run = promisify(execFile);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'quiesce-test-tls-'));
const certificates = makeCertificates(folder);
const keys = makeKeys(folder, 'alice');

afterAll(() => {
	fs.rmSync(folder, {recursive: true});
});

interface Way {
	readonly server: () => ServerTls;
	readonly client: () => ClientTls;
	/** Of QEMU's object. */
	readonly qemu: () => string;
	/** Of libnbd's address. */
	readonly uri: () => string;
	readonly nbdkit: () => string[];
}

const WAYS: Record<string, Way> = {
	'certificates': {
		server: () => ({kind: 'certificate', ...certificates.server, clientAuthority: certificates.authority}),
		client: () => ({
			kind: 'certificate',
			authority: certificates.authority,
			serverName: 'localhost',
			...certificates.client,
		}),
		qemu: () => `tls-creds-x509,id=tls,endpoint=client,dir=${certificates.folder}`,
		uri: () => `tls-certificates=${certificates.folder}`,
		nbdkit: () => [`--tls-certificates=${certificates.folder}`, '--tls-verify-peer'],
	},
	'pre-shared keys': {
		server: () => ({kind: 'psk', keys: new Map([[keys.identity, keys.key]])}),
		client: () => ({kind: 'psk', identity: keys.identity, key: keys.key}),
		qemu: () => `tls-creds-psk,id=tls,endpoint=client,dir=${keys.folder},username=${keys.identity}`,
		uri: () => `tls-psk-file=${keys.file}`,
		nbdkit: () => [`--tls-psk=${keys.file}`],
	},
};

describe.each(Object.entries(WAYS))('TLS with %s', (_name, way) => {
	async function serve(content: Buffer) {
		const reports: string[] = [];
		const server = await serveNbd({host: '127.0.0.1', port: 0}, new Map([['disk', memoryExport(content)]]), {
			tls: way.server(),
			report: error => reports.push(error.message),
		});
		onTestFinished(() => server.close());
		return {server, address: server.address as {host: string; port: number}, reports};
	}

	test('QEMU and libnbd read and write what we serve', async () => {
		const content = sampleContent(SIZE);
		const {address, reports} = await serve(content);
		const node = `driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=${address.port},export=disk,tls-creds=tls`;
		const io = await run('qemu-io', [
			...['--object', way.qemu(), '--image-opts', `driver=raw,file.${node.replaceAll(',', ',file.')}`],
			...['-c', 'write -P 5 1M 1M', '-c', 'flush', '-c', 'read -P 5 1M 1M'],
		]);
		expect(io.stdout).not.toContain('failed');
		expect(content.subarray(1024 * 1024, 2 * 1024 * 1024).equals(Buffer.alloc(1024 * 1024, 5))).toBe(true);
		const user = way.client().kind === 'psk' ? `${keys.identity}@` : '';
		const uri = `nbds://${user}127.0.0.1:${address.port}/disk?${way.uri()}`;
		const {stdout} = await run('nbdcopy', [uri, '-'], {encoding: 'buffer', maxBuffer: 2 * SIZE});
		expect(stdout.equals(content)).toBe(true);
		expect(reports).toEqual([]);
	});

	test('our client reads from us and from nbdkit', async () => {
		const content = sampleContent(SIZE);
		const {address} = await serve(content);
		const client = await NbdClient.connect(address, 'disk', {tls: way.client(), metaContexts: ['base:allocation']});
		onTestFinished(() => client.close());
		expect((await client.read(0, SIZE)).equals(content)).toBe(true);
		expect((await client.blockStatus(0, SIZE)).get('base:allocation')?.length).toBeGreaterThan(2);
		const socket = await startNbdkit(['--tls=require', ...way.nbdkit()], 'pattern', 'size=1M');
		const other = await NbdClient.connect({unix: socket}, '', {tls: way.client()});
		onTestFinished(() => other.close());
		expect((await other.read(8, 8)).readBigUInt64BE()).toBe(8n);
	});

	test('whoever comes without it, or with what is not known, gets nothing', async () => {
		const {address, reports} = await serve(Buffer.alloc(SIZE));
		await expect(NbdClient.connect(address, 'disk')).rejects.toThrow(/TLS has to be started first/);
		const wrong: ClientTls =
			way.client().kind === 'psk'
				? {kind: 'psk', identity: keys.identity, key: Buffer.alloc(32)}
				: {kind: 'certificate', authority: certificates.authority, serverName: 'localhost'};
		const refused = await NbdClient.connect(address, 'disk', {tls: wrong}).catch((error: unknown) => error);
		expect(refused).toBeInstanceOf(NbdError);
		if (way.client().kind === 'certificate') {
			const elsewhere: ClientTls = {...(way.client() as ClientTls & {kind: 'certificate'}), serverName: 'example.org'};
			await expect(NbdClient.connect(address, 'disk', {tls: elsewhere})).rejects.toThrow(/example\.org/);
		}
		expect(reports.length).toBeGreaterThan(0);
	});
});

test('a server without TLS says so, and our client does not go on in the clear', async () => {
	const socket = path.join(temporaryFolder(), 'nbd.sock');
	const server = await serveNbd({unix: socket}, new Map([['disk', memoryExport(Buffer.alloc(SIZE))]]));
	onTestFinished(() => server.close());
	const tls: ClientTls = {kind: 'psk', identity: keys.identity, key: keys.key};
	await expect(NbdClient.connect({unix: socket}, 'disk', {tls})).rejects.toThrow(/refuses: there is no option 5/);
});

test('bytes that somebody puts in before TLS are not taken as if they were protected', async () => {
	const socket = path.join(temporaryFolder(), 'nbd.sock');
	const reports: string[] = [];
	const tls: ServerTls = {kind: 'psk', keys: new Map([[keys.identity, keys.key]])};
	const server = await serveNbd({unix: socket}, new Map([['disk', memoryExport(Buffer.alloc(SIZE))]]), {
		tls,
		report: error => reports.push(error.message),
	});
	onTestFinished(() => server.close());
	const client = await RawClient.connect(socket);
	client.socket.resume();
	client.socket.write(Buffer.concat([options.encodeOption(OPTION.startTls), options.encodeOption(OPTION.list)]));
	await client.ended;
	expect(reports).toEqual(['the client does not wait for TLS']);

	const liar = path.join(temporaryFolder(), 'liar.sock');
	const listener = net.createServer(near => {
		near.on('error', () => undefined);
		near.write(options.encodeGreeting());
		near.on('data', () => {
			near.write(Buffer.concat([options.encodeOptionReply(5, 1), options.encodeOptionReply(11, 1)]));
		});
	});
	await new Promise<void>(resolve => listener.listen(liar, resolve));
	onTestFinished(() => void listener.close());
	const psk: ClientTls = {kind: 'psk', identity: keys.identity, key: keys.key};
	await expect(NbdClient.connect({unix: liar}, 'disk', {tls: psk})).rejects.toThrow(/does not wait for TLS/);
});
