import {randomInt} from 'node:crypto';
import {once} from 'node:events';
import {access, copyFile, readFile} from 'node:fs/promises';
import {connect} from 'node:net';
import {join} from 'node:path';
import {createInterface} from 'node:readline';
import {describe, expect, onTestFinished, test} from 'vitest';
import {rawCopy} from './disks.ts';
import {startGuest, type Guest, type GuestOptions} from './guest.ts';
import {
	blockAt,
	blockBytes,
	blockContent,
	explainWrites,
	fsck,
	fsckAfterReplay,
	needsRecovery,
	readStamps,
} from './oracle.ts';
import {guestParts} from './parts.ts';
import {rawStatsIn} from './serial.ts';

const guestFor = async (options: GuestOptions): Promise<Guest> => {
	const guest = await startGuest(options);
	onTestFinished(() => guest.kill());
	return guest;
};

/** The least that makes an agent answer: sync, then requests one by one. */
const agentOf = async (path: string) => {
	const socket = connect(path);
	onTestFinished(() => {
		socket.destroy();
	});
	await once(socket, 'connect');
	// The agent's 0xFF comes out of the text decoder as something that is not JSON; it opens the line it stands in.
	const lines = createInterface({input: socket})[Symbol.asyncIterator]();
	const reply = async (): Promise<Record<string, unknown>> => {
		const {value} = (await lines.next()) as {value: string};
		return JSON.parse(value.replace(/^[^{]*/, '')) as Record<string, unknown>;
	};
	const id = randomInt(2 ** 40);
	socket.write(`${JSON.stringify({execute: 'guest-sync-delimited', arguments: {id}})}\n`);
	expect(await reply()).toEqual({return: id});
	return async (execute: string): Promise<Record<string, unknown>> => {
		socket.write(`${JSON.stringify({execute})}\n`);
		return reply();
	};
};

const pathsOf = (guest: Guest, ...names: ('vda' | 'vdb' | 'vdc' | 'vdd')[]): string[] =>
	names.map(name => guest.images.get(name)!.path);

test('the parts are built once and found at once', async () => {
	const [one, two] = await Promise.all([guestParts(), guestParts()]);
	const start = performance.now();
	expect(await guestParts()).toEqual(one);
	expect(performance.now() - start).toBeLessThan(200);
	expect(two).toEqual(one);
	expect(one.packages.join()).toMatch(/linux-image-\d.*qemu-guest-agent/);
});

test('the guest runs scripts side by side and tells output, errors and exit code apart', async () => {
	const guest = await guestFor({stamps: 'none', agent: 'none', fillBytes: 3 << 20});
	expect(await guest.run('printf "one\\ntwo"; echo err >&2; exit 3')).toEqual({
		code: 3,
		stdout: 'one\ntwo',
		stderr: 'err\n',
	});
	expect(await guest.run('true')).toEqual({code: 0, stdout: '', stderr: ''});
	await guest.read('mkfifo /run/fifo');
	const waiting = guest.read('read word </run/fifo; echo "got $word"');
	await guest.read('echo it >/run/fifo');
	expect(await waiting).toBe('got it');
	expect((await guest.run('cat /mnt/a/data/file-0')).stdout).toHaveLength(1 << 20);
	await expect(guest.read('echo broken >&2; exit 1')).rejects.toThrow('broken');
	await expect(guest.run('sleep 60', 50)).rejects.toThrow('within 50 ms');
	expect(await guest.read('cat /sys/block/vda/serial')).toBe('vda');
	expect(await guest.read('pgrep qemu-ga || echo none')).toBe('none');

	const orphan = guest.run('sleep 60');
	orphan.catch(() => undefined);
	await guest.kill();
	await expect(orphan).rejects.toThrow('gone');
	await expect(guest.run('true')).rejects.toThrow('gone');
	await expect(access(guest.dir)).rejects.toThrow('ENOENT');
	expect(await guest.exited).toEqual({code: null, signal: 'SIGKILL'});
});

test('a freeze by the agent leaves both file systems clean and with one stamp; thaw lets the writer go on', async () => {
	const guest = await guestFor({raw: 'writing', rawBytes: 4 << 20});
	const agent = await agentOf(guest.agentPath);
	const frozen = await agent('guest-fsfreeze-freeze');
	expect(frozen).toEqual({return: 2});
	const before = await guest.stamps();

	const [a, b] = ['vda', 'vdb'].map(name => join(guest.dir, `${name}.frozen`)) as [string, string];
	await copyFile(guest.images.get('vda')!.path, a);
	await copyFile(guest.images.get('vdb')!.path, b);
	expect(await guest.stamps()).toEqual(before);
	expect(await agent('guest-fsfreeze-thaw')).toEqual({return: 2});

	expect(before.a).toBe(before.b);
	expect(await readStamps(a, b)).toEqual(before);
	for (const image of [a, b]) {
		expect(await needsRecovery(image)).toBe(false);
		expect((await fsck(image)).report).toMatch(/Pass 5/);
		expect((await fsck(image)).clean).toBe(true);
	}
	await expect.poll(async () => (await guest.stamps()).a).toBeGreaterThan(before.a);
});

test('after a power cut some count explains the raw disks, and the stamps are at most one apart', async () => {
	const guest = await guestFor({raw: 'writing', rawBytes: 4 << 20});
	// More than one pass over the disks, so that blocks were overwritten.
	const stats = await guest.consoleSays(/count=([3-9]\d{3}|\d{5,}) /).then(rawStatsIn);
	await guest.end('SIGKILL');
	const disks = pathsOf(guest, 'vdc', 'vdd');
	const verdict = await explainWrites(disks);
	expect(verdict).toMatchObject({sound: true});
	expect(verdict.writes).toBeGreaterThanOrEqual(stats.at(-1)!.count);
	expect(stats.at(-1)).toMatchObject({errors: 0});

	const [vda, vdb] = pathsOf(guest, 'vda', 'vdb') as [string, string];
	const {a, b} = await readStamps(vda, vdb);
	expect(a).toBeGreaterThan(0);
	expect(a - b).toBeOneOf([0, 1]);
	expect(await needsRecovery(vda)).toBe(true);
	expect(await fsckAfterReplay(vda, join(guest.dir, 'scratch'))).toMatchObject({clean: true});

	// The same disks, spoilt in a way that only a check of every byte sees.
	const [vdc, vdd] = await Promise.all(disks.map(path => readFile(path)) as [Promise<Buffer>, Promise<Buffer>]);
	vdc.writeUInt8(vdc.readUInt8(70 * blockBytes + 4000) ^ 1, 70 * blockBytes + 4000);
	expect(await explainWrites([vdc, vdd])).toMatchObject({
		sound: false,
		count: 1,
		contradictions: [{disk: 0, block: 70}],
	});
});

test('a guest boots from the disks of another and goes on where it stopped, on other disks and threads', async () => {
	const start = performance.now();
	const first = await guestFor({
		raw: 'writing',
		rawBytes: 1 << 20,
		rawRate: 400,
		format: 'qcow2',
		disks: 'drive',
		iothreads: 2,
	});
	await first.consoleSays(/raw count=/);
	const {count, errors} = await first.rawStop();
	expect(errors).toBe(0);
	expect(count).toBeLessThanOrEqual((400 * (performance.now() - start)) / 1000);
	await first.consoleSays(/raw-final count=/);
	const {a} = await first.stamps();
	await first.end('SIGTERM');

	const images = Object.fromEntries(first.images);
	const second = await guestFor({raw: 'writing', rawFrom: count, images, disks: 'plain'});
	await second.consoleSays(/raw count=/);
	const stopped = await second.rawStop();
	expect(stopped.count).toBeGreaterThan(count);
	expect((await second.stamps()).b).toBeGreaterThan(a);
	await second.end('SIGTERM');
	const disks = await Promise.all(
		(['vdc', 'vdd'] as const).map(name => rawCopy(second.images.get(name)!, join(second.dir, `${name}.copy`))),
	);
	expect(await explainWrites(disks)).toEqual({sound: true, writes: stopped.count});
});

test('the freeze hook fails or takes its time as told, also when told anew', async () => {
	const guest = await guestFor({hook: 'fail'});
	const agent = await agentOf(guest.agentPath);
	expect(await agent('guest-fsfreeze-freeze')).toMatchObject({
		error: {desc: expect.stringContaining('hook') as string},
	});
	expect(await agent('guest-fsfreeze-status')).toEqual({return: 'thawed'});
	await guest.consoleSays(/the freeze hook was told to fail/);

	await guest.read('echo slow:1 >/run/hook');
	const start = performance.now();
	expect(await agent('guest-fsfreeze-freeze')).toEqual({return: 2});
	expect(performance.now() - start).toBeGreaterThan(1000);
	await guest.read('echo thaw-fail >/run/hook');
	expect(await agent('guest-fsfreeze-thaw')).toMatchObject({error: {desc: expect.stringContaining('hook') as string}});
	expect(await agent('guest-fsfreeze-status')).toEqual({return: 'thawed'});
	const {a} = await guest.stamps();
	await expect.poll(async () => (await guest.stamps()).a).toBeGreaterThan(a);
});

test('a guest that cannot start says why and leaves nothing', async () => {
	await expect(startGuest({extraArgs: ['-device', 'no-such-device']})).rejects.toThrow(/no-such-device/);
	await expect(startGuest({qemu: '/no/such/qemu'})).rejects.toThrow(/no such file|No such file/);
});

describe('the oracle', () => {
	const blocks = 60;
	/** Two disks after `writes` writes, those left out that `lost` names. */
	const disksAfter = (writes: number, lost: readonly number[] = []): [Uint8Array, Uint8Array] => {
		const disks: [Uint8Array, Uint8Array] = [new Uint8Array(blocks * blockBytes), new Uint8Array(blocks * blockBytes)];
		for (let k = 0; k < writes; k++) {
			const disk = k % 2;
			const block = blockAt(Math.floor(k / 2) % blocks, blocks);
			if (!lost.includes(k)) disks[disk]!.set(blockContent(k, disk, block), block * blockBytes);
		}
		return disks;
	};

	test('visits each block of a disk once in a pass', () => {
		for (const count of [1, 2, 3, 60, 64, 4097]) {
			expect(new Set(Array.from({length: count}, (_, index) => blockAt(index, count))).size).toBe(count);
		}
	});

	test('finds every count, in the first pass and in later ones', async () => {
		for (const writes of [0, 1, 2, 59, 60, 119, 120, 121, 239, 240, 241, 1001]) {
			expect(await explainWrites(disksAfter(writes))).toEqual({sound: true, writes});
		}
	});

	test('finds a write that is missing, and says which', async () => {
		expect(await explainWrites(disksAfter(200, [150]))).toEqual({
			sound: false,
			writes: 200,
			count: 1,
			contradictions: [{disk: 0, block: blockAt(15, blocks), expected: 150, found: 30}],
		});
		expect(await explainWrites(disksAfter(50, [7]))).toMatchObject({
			contradictions: [{disk: 1, expected: 7, found: 'initial'}],
		});
	});

	test('finds disks of two instants', async () => {
		const [early] = disksAfter(200);
		const [, late] = disksAfter(204);
		expect(await explainWrites([early, late])).toMatchObject({sound: false, writes: 204, count: 2});
		const [one, two] = disksAfter(200);
		expect(await explainWrites([two, one])).toMatchObject({sound: false, count: 120});
	});

	test('finds a flipped bit, a block in the wrong place and a write that came too late', async () => {
		const [one, two] = disksAfter(200);
		one[33 * blockBytes + 2000]! ^= 16;
		expect(await explainWrites([one, two])).toMatchObject({
			sound: false,
			count: 1,
			contradictions: [{disk: 0, block: 33, found: 'unknown'}],
		});

		const [three, four] = disksAfter(200);
		four.set(four.slice(0, blockBytes), blockBytes);
		expect(await explainWrites([three, four])).toMatchObject({
			count: 1,
			contradictions: [{disk: 1, block: 1, found: 'unknown'}],
		});

		// A copy that ran on after the cut took the newest write along, and lacks those between.
		const [five, six] = disksAfter(301, [298, 299]);
		expect(await explainWrites([five, six])).toMatchObject({sound: false, writes: 301, count: 2});
	});

	test('knows what was on the disks before the first write', async () => {
		const disks = disksAfter(20);
		const initial = disks.map(disk => new Uint8Array(disk.length).fill(7));
		for (const [index, disk] of disks.entries()) {
			for (let at = 0; at < disk.length; at += blockBytes) {
				if (disk.subarray(at, at + blockBytes).every(byte => byte === 0))
					disk.set(initial[index]!.subarray(0, blockBytes), at);
			}
		}
		expect(await explainWrites(disks, initial)).toEqual({sound: true, writes: 20});
		expect(await explainWrites(disks)).toMatchObject({sound: false, count: 100});
	});
});
