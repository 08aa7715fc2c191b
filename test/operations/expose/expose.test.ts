import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {expose} from '../../../src/operations/expose/expose.ts';
import {NbdClient} from '../../../src/nbd/client.ts';
import {type BareDisk, eventually, executeAny, isRunning, MIB, ownRuntimeFolder} from '../../jobs/bare-vm.ts';
import {collect} from '../../jobs/collect.ts';
import {temporaryFolder, temporaryMount} from '../../repository/fixture.ts';
import {startToolAt} from '../tool-at-step.ts';
import {WrittenVm} from '../written-vm.ts';
import {copyOf, expectCopied, expectNothingLeft, exposeWritten, requestFor} from './exposing.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const DISKS: readonly BareDisk[] = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2', iothread: false},
	{name: 'vdb', sizeBytes: 4 * MIB + 512, fill: 0xbb, format: 'raw', iothread: false},
];

function socketOf(uri: string): string {
	return new URL(uri).searchParams.get('socket')!;
}

test('nbdcopy gets what all disks held at the cut while writes go on, and nothing is left', async () => {
	const written = await new WrittenVm(DISKS).start();
	for (const {name} of DISKS) await written.writeAround(name);
	const held = copyOf(written.contents);
	const messages = await exposeWritten(written, {}, exports => expectCopied(written, exports, held));
	expect(messages.at(-1)).toEqual({kind: 'finished', vm: 'web', exitStatus: null});
	await expectNothingLeft(written);
});

test('what has changed since a point is all that is to be read, and lies on the point as the cut', async () => {
	const written = await new WrittenVm(DISKS).start();
	const repository = temporaryFolder();
	const {finished, held: before} = await written.back(repository);
	const point = finished.manifest.id;
	for (const {name} of DISKS) await written.writeAround(name);
	const held = copyOf(written.contents);
	await exposeWritten(written, {since: point, repository}, async exports => {
		for (const {disk, uri, changes, sizeBytes} of exports) {
			expect(changes).toBe(`qemu:dirty-bitmap:${point}`);
			const client = await NbdClient.connect({unix: socketOf(uri)}, disk, {metaContexts: [changes!]});
			const content = Buffer.from(before.get(disk)!);
			let moved = 0;
			for (let at = 0; at < sizeBytes;) {
				for (const {length, flags} of (await client.blockStatus(at, sizeBytes - at)).get(changes!)!) {
					if (flags === 1) {
						await client.read(at, length, content.subarray(at, at + length));
						moved += length;
					}
					at += length;
				}
			}
			await client.close();
			expect({disk, same: content.equals(held.get(disk)!)}).toEqual({disk, same: true});
			expect(moved).toBeGreaterThan(0);
			expect(moved).toBeLessThan(sizeBytes / 2 + MIB);
		}
	});
	await expectNothingLeft(written);
	// Nothing was taken from the next point.
	for (const {name} of DISKS) await written.writeAround(name, 2);
	const next = await written.back(repository);
	expect(next.finished.manifest.disks.map(({kind, parent}) => ({kind, parent}))).toEqual(
		DISKS.map(() => ({kind: 'incremental', parent: point})),
	);
});

test('a command has the exports in its environment, and its exit status is told', async () => {
	const written = await new WrittenVm(DISKS).start();
	const held = copyOf(written.contents);
	const file = path.join(temporaryFolder(), 'vda.raw');
	const script = `nbdcopy "$QUIESCE_URI_vda" "${file}" && test -n "$QUIESCE_EXPORTS" && exit 7`;
	const messages = await collect(expose(requestFor(written, {command: ['sh', '-c', script]})));
	expect(messages.at(-1)).toMatchObject({kind: 'finished', exitStatus: 7});
	expect(fs.readFileSync(file).equals(held.get('vda')!)).toBe(true);
	await expectNothingLeft(written);
});

test('a reader that is killed harms nobody, and one that stalls for ever is ended by the deadline', async () => {
	const written = await new WrittenVm(DISKS).start();
	const held = copyOf(written.contents);
	await exposeWritten(written, {}, async exports => {
		const {uri} = exports[0]!;
		const dying = spawn('nbdcopy', [uri, 'null:'], {stdio: 'ignore'});
		dying.kill('SIGKILL');
		await once(dying, 'exit');
		await expectCopied(written, exports, held);
	});
	const asleep = 'nbdcopy "$QUIESCE_URI_vda" null: & kill -STOP $!; trap "kill -KILL $!" TERM; wait; exit 0';
	const stalling = collect(expose(requestFor(written, {deadlineMs: 2_000, command: ['sh', '-c', asleep]})));
	await expect(stalling).rejects.toThrow('sh ran longer than 2 s while the disks were exposed');
	const waiting = collect(expose(requestFor(written, {deadlineMs: 500})));
	await expect(waiting).rejects.toThrow('the disks were exposed for 0.5 s, and are not any more');
	await expectNothingLeft(written);
});

test('scratch that fills ends the exposure, and no write of the guest', async () => {
	const written = await new WrittenVm(DISKS).start();
	const scratch = temporaryMount(20);
	const filling = collect(expose(requestFor(written, {scratch, deadlineMs: 20_000})), async ({kind}) => {
		if (kind === 'exposed') for (let at = 0; at < 7; at++) await written.write('vda', at * MIB, MIB);
	});
	await expect(filling).rejects.toThrow(/no space is left in .*the copy was stopped before it was full/);
	expect(await written.vm.qmp.execute('query-block-exports')).toEqual([]);
	await written.write('vda', 0, MIB);
	await expectNothingLeft(written);
});

test('a view that is broken is an error for readers, and ends the exposure', async () => {
	const written = await new WrittenVm(DISKS).start();
	const broken = collect(expose(requestFor(written, {deadlineMs: 20_000})), async message => {
		if (message.kind !== 'exposed') return;
		const {uri, disk} = message.exports[0]!;
		const client = await NbdClient.connect({unix: socketOf(uri)}, disk);
		// As one that goes over its time: without its export a reader of ours reads nothing.
		const exports = await written.vm.qmp.execute('query-block-exports');
		const {id} = exports.find(shown => shown.id.endsWith('-vda-export'))!;
		await written.vm.qmp.execute('block-export-del', {id, mode: 'hard'});
		await expect(client.read(0, 4096)).rejects.toThrow(/the disk cannot be read as it was at the cut/);
		await client.close();
	});
	await expect(broken).rejects.toThrow(/vda cannot be read as it was at the cut any more/);
	await expectNothingLeft(written);
});

test('only who has the key gets in', async () => {
	const written = await new WrittenVm(DISKS).start();
	const held = copyOf(written.contents);
	const file = path.join(temporaryFolder(), 'keys.psk');
	const key = 'ab'.repeat(32);
	fs.writeFileSync(file, `reader:${key}\n`);
	const tls = {
		server: {kind: 'psk', keys: new Map([['reader', Buffer.from(key, 'hex')]])},
		psk: {identity: 'reader', file},
	} as const;
	await exposeWritten(written, {tls, listen: {host: '127.0.0.1', port: 0}}, async exports => {
		await expectCopied(written, exports, held);
		const {port} = new URL(exports[0]!.uri.replace('nbds:', 'http:'));
		await expect(NbdClient.connect({host: '127.0.0.1', port: Number(port)}, 'vda')).rejects.toThrow(/TLS|tls/);
	});
	await expectNothingLeft(written);
});

test('another program has the NBD server of QEMU, and keeps it', async () => {
	const written = await new WrittenVm(DISKS).start();
	const addr = {type: 'unix', data: {path: path.join(temporaryFolder(), 'theirs.sock')}};
	await executeAny(written.vm.qmp, 'nbd-server-start', {addr});
	await expect(collect(expose(requestFor(written)))).rejects.toMatchObject({
		code: 'REFUSED',
		message: expect.stringMatching(/NBD server already running/) as string,
	});
	await executeAny(written.vm.qmp, 'nbd-server-stop');
	await expectNothingLeft(written);
});

test('disks with I/O threads are refused where QEMU can abort, and else exposed', async () => {
	const written = await new WrittenVm(DISKS.map(disk => ({...disk, iothread: true}))).start();
	const held = copyOf(written.contents);
	const {major} = written.vm.qmp.version.qemu;
	const exposing = exposeWritten(written, {}, exports => expectCopied(written, exports, held));
	if (major < 9) await expect(exposing).rejects.toThrow(/vda has an I\/O thread, and QEMU .* can abort/);
	else expect((await exposing).at(-1)).toMatchObject({kind: 'finished'});
	await expectNothingLeft(written);
});

test.each([
	['the tool alone, whose guard undoes it', 'alone'],
	['the tool and its guard, which the next run undoes', 'both'],
])('SIGKILL of %s', async (_, whom) => {
	const written = await new WrittenVm(DISKS).start();
	const args = ['expose', '--qmp', `unix:${written.vm.qmpPath}`, '--quiesce', 'never', '--json'];
	const tool = startToolAt('never', args);
	await eventually(() => tool.stdout().includes('"exposed"'), 30_000);
	expect(await written.vm.qmp.execute('query-block-exports')).toHaveLength(2);
	if (whom === 'alone') {
		const guard = await tool.killAlone();
		await eventually(() => !isRunning(guard));
	} else {
		await tool.killBoth();
	}
	for (const {name} of DISKS) await written.writeAround(name);
	if (whom === 'both') {
		const held = copyOf(written.contents);
		await exposeWritten(written, {}, exports => expectCopied(written, exports, held));
	}
	await expectNothingLeft(written);
});

test('SIGTERM is the ordinary end of an exposure without a command', async () => {
	const written = await new WrittenVm(DISKS).start();
	const tool = startToolAt('never', ['expose', '--qmp', `unix:${written.vm.qmpPath}`, '--quiesce', 'never']);
	await eventually(() => tool.stdout().includes('vdb?socket='), 30_000);
	process.kill(tool.pid, 'SIGTERM');
	expect(await tool.ended).toEqual({code: 0, signal: null});
	expect(tool.stdout()).toMatch(/^nbd\+unix:\/\/\/vda\?socket=\S+\nnbd\+unix:\/\/\/vdb\?socket=\S+\n$/);
	await expectNothingLeft(written);
});
