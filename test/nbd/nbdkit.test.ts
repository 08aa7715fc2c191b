import {expect, onTestFinished, test} from 'vitest';
import {NbdClient, type NbdOptions} from '../../src/nbd/client.ts';
import {NbdError, NbdRequestError} from '../../src/nbd/errors.ts';
import {startNbdkit} from './nbdkit.ts';

const MIB = 1024 * 1024;

async function open(options: readonly string[], plugin: readonly string[], more: NbdOptions = {}): Promise<NbdClient> {
	const client = await NbdClient.connect({unix: await startNbdkit(options, ...plugin)}, '', more);
	onTestFinished(() => client.close());
	return client;
}

/** Of nbdkit's pattern: each 8 bytes are their own offset. */
function pattern(offset: number, length: number): Buffer {
	const bytes = Buffer.alloc(length);
	for (let at = 0; at < length; at += 8) bytes.writeBigUInt64BE(BigInt(offset + at), at);
	return bytes;
}

test('far out in a huge disk, all that is asked for at once comes, though each answer takes a while', async () => {
	const client = await open(['--filter=delay'], ['pattern', 'size=7E', 'delay-read=20ms']).catch(
		(error: unknown) => error,
	);
	// More than a number holds exactly is refused, not rounded.
	expect(client).toBeInstanceOf(NbdError);
	const far = 2 ** 52;
	const other = await open(['--filter=delay'], ['pattern', `size=${far}`, 'delay-read=20ms']);
	const began = performance.now();
	const offsets = Array.from({length: 64}, (_, index) => far - (index + 1) * 4096);
	const read = await Promise.all(offsets.map(offset => other.read(offset, 4096)));
	for (const [index, bytes] of read.entries()) expect(bytes.equals(pattern(offsets[index]!, 4096))).toBe(true);
	// One after the other they would take as long as all of them.
	expect(performance.now() - began).toBeLessThan(64 * 20);
});

test('errors of the storage are those of their request; the rest is read as ever', async () => {
	const client = await open(['--filter=error'], ['pattern', 'size=8M', 'error-pread=EIO', 'error-pread-rate=50%']);
	const ends = await Promise.allSettled(Array.from({length: 200}, (_, index) => client.read(index * 4096, 4096)));
	const failed = ends.filter(({status}) => status === 'rejected');
	expect(failed.length).toBeGreaterThan(20);
	expect(failed.length).toBeLessThan(180);
	for (const [index, end] of ends.entries()) {
		if (end.status === 'fulfilled') expect(end.value.equals(pattern(index * 4096, 4096))).toBe(true);
		else expect(end.reason).toMatchObject({errno: 5, constructor: NbdRequestError});
	}
});

test('a server that hangs is left when its caller has had enough', async () => {
	const controller = new AbortController();
	const client = await open(['--filter=delay'], ['pattern', 'size=8M', 'delay-read=3600'], {
		signal: controller.signal,
	});
	const read = client.read(0, 512);
	const reason = new Error('enough');
	controller.abort(reason);
	await expect(read).rejects.toBe(reason);
});

test('the map of a sparse disk is read in steps, whatever the server makes of it', async () => {
	const data = ['data', 'size=2G', 'data=@0x3000000 1*65536 @0x40000000 2*100000 @0x7fff0000 3'];
	for (const filters of [[], ['--filter=noextents'], ['--filter=nocache']]) {
		const client = await open(filters, data, {metaContexts: ['base:allocation']});
		let holes = 0;
		let zeroes = 0;
		for (let offset = 0; offset < client.sizeBytes;) {
			const status = await client.blockStatus(offset, client.sizeBytes - offset);
			for (const {length, flags} of status.get('base:allocation') ?? []) {
				if ((flags & 1) !== 0) holes += length;
				if ((flags & 2) !== 0) zeroes += length;
				offset += length;
			}
		}
		expect(zeroes).toBe(holes);
		if (filters[0] === '--filter=noextents') expect(holes).toBe(0);
		else expect(holes).toBeGreaterThan(2 * 1024 * MIB - 4 * MIB);
		const bytes = await client.read(0x4000_0000 - 10, 100_020);
		expect(bytes.equals(Buffer.concat([Buffer.alloc(10), Buffer.alloc(100_000, 2), Buffer.alloc(10)]))).toBe(true);
	}
});
