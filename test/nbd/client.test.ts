import fs from 'node:fs';
import path from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {NbdClient, type NbdOptions} from '../../src/nbd/client.ts';
import {serveNbd} from '../../src/nbd/server.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {memoryExport} from './memory-export.ts';
import {CLUSTER, exportImage, IMAGE, makeImage} from './storage-export.ts';

const CONTEXTS = ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:changed'];

async function open(options: NbdOptions = {}) {
	const folder = temporaryFolder();
	const image = makeImage(folder);
	const client = await NbdClient.connect({unix: exportImage(image)}, 'disk', options);
	onTestFinished(() => client.close());
	const raw = path.join(folder, 'plain.raw');
	qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
	return {client, image, content: fs.readFileSync(raw)};
}

test('an export reads as the image does, whole, in parts at odd places, and all at once', async () => {
	const {client, content} = await open();
	expect(client.sizeBytes).toBe(IMAGE.sizeBytes);
	const whole = await client.read(0, IMAGE.sizeBytes);
	expect(whole.equals(content)).toBe(true);
	const parts = Array.from({length: 400}, (_, index) => {
		const offset = (index * 104_729) % IMAGE.sizeBytes;
		return {offset, length: Math.min(1 + ((index * 7919) % (3 * CLUSTER)), IMAGE.sizeBytes - offset)};
	});
	const read = await Promise.all(parts.map(({offset, length}) => client.read(offset, length)));
	for (const [index, {offset, length}] of parts.entries()) {
		expect(read[index]?.equals(content.subarray(offset, offset + length)), `${length} at ${offset}`).toBe(true);
	}
});

test('what is written is there, with zeroes, all at once', async () => {
	const content = Buffer.alloc(4 * 1024 * 1024 + 512, 1);
	const socket = path.join(temporaryFolder(), 'nbd.sock');
	const server = await serveNbd({unix: socket}, new Map([['disk', memoryExport(content)]]));
	onTestFinished(() => server.close());
	const client = await NbdClient.connect({unix: socket}, 'disk');
	onTestFinished(() => client.close());
	const expected = Buffer.from(content);
	const writes = Array.from({length: 64}, (_, nth) => {
		const [offset, length] = [nth * 65_536, nth % 3 === 0 ? 65_536 : 512 * (nth + 1)];
		expected.fill(nth % 5 === 0 ? 0 : nth, offset, offset + length);
		return nth % 5 === 0 ? client.writeZeroes(offset, length) : client.write(offset, Buffer.alloc(length, nth));
	});
	await Promise.all(writes);
	expect(content.equals(expected)).toBe(true);
	await expect(client.write(content.length - 1, Buffer.alloc(2))).rejects.toThrow('no 2 bytes at');
	expect((await client.read(0, content.length)).equals(expected)).toBe(true);
});

test('QEMU takes what is written, and tells that it cannot', async () => {
	const {client, image} = await open();
	await expect(client.write(0, Buffer.alloc(512, 7))).rejects.toMatchObject({
		message: expect.stringMatching(/cannot write 512 bytes at 0: /) as string,
	});
	expect(fs.existsSync(image)).toBe(true);
});

test('what is read goes into the buffer that is given', async () => {
	const {client, content} = await open();
	const into = Buffer.alloc(1000, 0xff);
	expect(await client.read(4 * CLUSTER - 500, 1000, into)).toBe(into);
	expect(into.equals(content.subarray(4 * CLUSTER - 500, 4 * CLUSTER + 500))).toBe(true);
});

/** What a context says of each cluster; a range is asked for in steps, as far as each answer goes. */
async function flagsByCluster(client: NbdClient, context: string, step: number): Promise<number[]> {
	const flags: number[] = [];
	for (let offset = 0; offset < client.sizeBytes;) {
		const status = await client.blockStatus(offset, Math.min(step, client.sizeBytes - offset));
		for (const extent of status.get(context) ?? []) {
			const end = offset + extent.length;
			for (; offset < end; offset = Math.min(end, offset + CLUSTER)) flags[Math.floor(offset / CLUSTER)] = extent.flags;
		}
	}
	return flags;
}

test.each([CLUSTER, 7 * CLUSTER, 1024 * CLUSTER])('contexts tell what is where (in steps of %i)', async step => {
	const {client, image} = await open({metaContexts: CONTEXTS});
	const clusters = Array.from({length: 41}, (_, cluster) => cluster);
	const having = (flags: number[], test: (value: number) => boolean) => clusters.filter(at => test(flags[at] ?? 0));

	const dirty = await flagsByCluster(client, 'qemu:dirty-bitmap:changed', step);
	expect(having(dirty, value => value === 1)).toEqual([...IMAGE.dirty, ...IMAGE.dirtyZeroes].sort((a, b) => a - b));

	const depth = await flagsByCluster(client, 'qemu:allocation-depth', step);
	const top = [...IMAGE.above, ...IMAGE.zeroes, ...IMAGE.dirty, ...IMAGE.dirtyZeroes].sort((a, b) => a - b);
	expect(having(depth, value => value === 1)).toEqual(top);
	expect(having(depth, value => value === 2)).toEqual(IMAGE.below.filter(at => !top.includes(at)));

	const map = JSON.parse(qemuImg('map', '--output=json', '-f', 'qcow2', image)) as {
		start: number;
		length: number;
		zero: boolean;
	}[];
	const zero = await flagsByCluster(client, 'base:allocation', step);
	const isZero = (cluster: number) =>
		map.some(({start, length, zero}) => zero && start <= cluster * CLUSTER && cluster * CLUSTER < start + length);
	expect(having(zero, value => (value & 2) !== 0)).toEqual(clusters.filter(isZero));
	expect(having(zero, value => (value & 2) !== 0)).toEqual(
		clusters.filter(at => !(IMAGE.dirty.includes(at) || IMAGE.above.includes(at) || [0, 1, 20].includes(at))),
	);
});

test('an export that is not there, or lacks a context, is refused in words', async () => {
	const socket = exportImage();
	await expect(NbdClient.connect({unix: socket}, 'other')).rejects.toThrow(
		/^NBD export other on .*: the server refuses: .*other/,
	);
	await expect(
		NbdClient.connect({unix: socket}, 'disk', {metaContexts: ['base:allocation', 'qemu:dirty-bitmap:none']}),
	).rejects.toThrow(/the export has no context qemu:dirty-bitmap:none$/);
});
