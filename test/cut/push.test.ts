import {type ChildProcessByStdio, spawn} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import type {Readable, Writable} from 'node:stream';
import {filter, firstValueFrom, lastValueFrom} from 'rxjs';
import {expect, onTestFinished, test} from 'vitest';
import type {Cut} from '../../src/cut/cut.ts';
import {preparePush} from '../../src/cut/push.ts';
import {endJobs} from '../../src/jobs/end-jobs.ts';
import {runJobs} from '../../src/jobs/run-jobs.ts';
import type {QmpConnection} from '../../src/qmp/connection.ts';
import type {QmpEvents} from '../../src/qmp/schema.ts';
import {type BareVm, eventually, executeAny, inside, MIB, openQmp, startVm} from '../jobs/bare-vm.ts';

const RUN = 'abc123';
const SLOT = 4096;
const SLOTS = 2048;
const BYTES = SLOT * SLOTS;

interface Targets {
	readonly cut: Cut;
	/** The raw file that a disk is copied to. */
	readonly copy: (disk: string) => string;
}

async function prepareCut(
	qmp: QmpConnection,
	vm: BareVm,
	disks: readonly string[],
	speedBytesPerSecond?: number,
): Promise<Targets> {
	const copy = (disk: string) => path.join(vm.dir, `${disk}.copy`);
	for (const disk of disks) {
		fs.writeFileSync(copy(disk), '');
		fs.truncateSync(copy(disk), fs.statSync(vm.file(disk)).size);
		const file = {driver: 'file', filename: copy(disk)};
		await qmp.execute('blockdev-add', {'driver': 'raw', 'node-name': `${disk}-target`, file});
	}
	const cutDisks = disks.map(name => ({name, node: `${name}-node`, target: `${name}-target`}));
	return {cut: preparePush({qmp, run: RUN, compress: false, speedBytesPerSecond}, cutDisks), copy};
}

async function copyAll(qmp: QmpConnection, cut: Cut, onceCut: () => Promise<void> = async () => {}): Promise<void> {
	const start = async (): Promise<void> => {
		await cut.take();
		await onceCut();
		await cut.copy();
	};
	await lastValueFrom(runJobs(qmp, cut.jobs, start, {pollMs: 50}));
}

/** One connection to an export, kept open, that writes a slot after another. */
class SlotWriter {
	readonly #child: ChildProcessByStdio<Writable, Readable, null>;
	readonly #lines: AsyncIterableIterator<string>;

	constructor(socket: string, disk: string) {
		const args = ['-f', 'raw', `nbd+unix:///${disk}?socket=${socket}`];
		this.#child = spawn('qemu-io', args, {stdio: ['pipe', 'pipe', 'inherit']});
		onTestFinished(() => {
			this.#child.kill('SIGKILL');
		});
		this.#lines = readline.createInterface(this.#child.stdout)[Symbol.asyncIterator]();
	}

	/** Returns when the write is done. */
	async write(slot: number): Promise<void> {
		this.#child.stdin.write(`write -P 1 ${slot * SLOT} ${SLOT}\n`);
		for await (const line of nextOf(this.#lines)) if (line.includes('wrote ')) return;
		throw new Error('the writer has ended');
	}
}

/** What iterates, without ending it when the loop is left. */
function nextOf(lines: AsyncIterator<string>): AsyncIterable<string> {
	return {[Symbol.asyncIterator]: () => ({next: () => lines.next()})};
}

/** How many slots were written, from the first on. Fails where one is missing in between. */
function writtenSlots(file: string): number {
	const content = fs.readFileSync(file);
	const written = Array.from({length: SLOTS}, (_, slot) => content[slot * SLOT] === 1);
	const count = written.filter(Boolean).length;
	expect(written.slice(0, count).every(Boolean)).toBe(true);
	return count;
}

test('two disks are cut at one instant, while a writer alternates between them', async () => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: BYTES, shared: true})));
	const qmp = await openQmp(vm.qmpPath);
	const socket = path.join(vm.dir, 'guest.sock');
	await executeAny(vm.qmp, 'nbd-server-start', {addr: {type: 'unix', data: {path: socket}}});
	for (const disk of ['vda', 'vdb']) {
		const node = {'node-name': `${disk}-node`, 'type': 'nbd', 'name': disk, 'writable': true, 'id': `guest-${disk}`};
		await executeAny(vm.qmp, 'block-export-add', node);
	}
	const {cut, copy} = await prepareCut(qmp, vm, ['vda', 'vdb']);

	const writers = [new SlotWriter(socket, 'vda'), new SlotWriter(socket, 'vdb')];
	const over = new AbortController();
	let writes = 0;
	const writing = (async () => {
		for (; !over.signal.aborted && writes < 2 * SLOTS; writes++) {
			await writers[writes % 2]!.write(Math.floor(writes / 2));
		}
	})();
	await eventually(() => writes > 100);
	await copyAll(qmp, cut, async () => {
		const before = writes;
		await eventually(() => writes > before + 20);
	});
	over.abort();
	await writing;

	const [first, second] = [writtenSlots(copy('vda')), writtenSlots(copy('vdb'))];
	expect(first + second).toBeGreaterThan(100);
	expect(first + second).toBeLessThan(writes);
	expect([0, 1]).toContain(first - second);
});

test.each([{iothread: false}, {iothread: true}])(
	'what is written after the cut is in no copy (with an I/O thread: $iothread)',
	async ({iothread}) => {
		const names = ['vda', 'vdb'];
		const vm = await startVm(names.map(name => ({name, sizeBytes: 4 * MIB, fill: 0xaa, iothread})));
		const qmp = await openQmp(vm.qmpPath);
		const {cut, copy} = await prepareCut(qmp, vm, names, 16 * MIB);
		await copyAll(qmp, cut, async () => {
			for (let at = 0; at < 4 * MIB; at += MIB) for (const name of names) await vm.write(name, 0xbb, at, MIB);
		});
		for (const name of names) {
			expect(fs.readFileSync(copy(name)).equals(Buffer.alloc(4 * MIB, 0xaa))).toBe(true);
			expect(fs.readFileSync(vm.file(name)).equals(Buffer.alloc(4 * MIB, 0xbb))).toBe(true);
		}
	},
);

test('where one disk is busy none is cut, and nothing is left', async () => {
	const vm = await startVm(['vda', 'vdb'].map(name => ({name, sizeBytes: MIB})));
	const qmp = await openQmp(vm.qmpPath);
	await vm.qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'theirs', 'size': MIB});
	const mirror = {'job-id': 'mirror', 'device': 'vdb-node', 'target': 'theirs', 'sync': 'full', 'speed': 1};
	await executeAny(vm.qmp, 'blockdev-mirror', mirror);
	const {cut} = await prepareCut(qmp, vm, ['vda', 'vdb']);
	const before = await inside(qmp);
	await expect(copyAll(qmp, cut)).rejects.toThrow(/^QEMU refused transaction: .*in use/);
	expect(await inside(qmp)).toEqual(before);
	expect(before.jobs).toEqual(['mirror']);
});

test('the copy goes at the speed that was asked for', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: 8 * MIB, fill: 1}]);
	const qmp = await openQmp(vm.qmpPath);
	const {cut} = await prepareCut(qmp, vm, ['vda'], 2 * MIB);
	await cut.take();
	await cut.copy();
	const jobs = (await executeAny(qmp, 'query-block-jobs')) as {device: string; speed: number}[];
	expect(jobs).toMatchObject([{device: 'qsc-abc123-vda', speed: 2 * MIB}]);
	await endJobs(qmp, await qmp.execute('query-jobs'));
});

test('a copy without a limit is not held back, and a disk that is copied before it can be told is no error', async () => {
	const vm = await startVm([
		{name: 'vda', sizeBytes: 512, fill: 1},
		{name: 'vdb', sizeBytes: 32 * MIB, fill: 1},
	]);
	const qmp = await openQmp(vm.qmpPath);
	const {cut} = await prepareCut(qmp, vm, ['vda', 'vdb']);
	const isPending = filter(
		({data}: {data: QmpEvents['JOB_STATUS_CHANGE']}) => data.id === 'qsc-abc123-vda' && data.status === 'pending',
	);
	const pending = firstValueFrom(qmp.on('JOB_STATUS_CHANGE').pipe(isPending));
	await copyAll(qmp, cut, async () => {
		await pending;
	});
});
