import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, onTestFinished, test} from 'vitest';
import {CancelledError} from '../../../src/errors.ts';
import {exportVm} from '../../../src/operations/archive/export-vm.ts';
import {listArchive} from '../../../src/operations/archive/list-archive.ts';
import {verifyArchive} from '../../../src/operations/archive/verify-archive.ts';
import {type BareDisk, inside, MIB, ownRuntimeFolder} from '../../jobs/bare-vm.ts';
import {expectNothingLeftOutside} from '../../jobs/backups.ts';
import {collect} from '../../jobs/collect.ts';
import {temporaryFolder, temporaryMount} from '../../repository/fixture.ts';
import {startToolAt} from '../tool-at-step.ts';
import {WrittenVm} from '../written-vm.ts';
import {expectArchived, exportWritten, requestFor} from './exporting.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

const signal = new AbortController().signal;

/** Sizes that are no multiples of 64 KiB, of 4 KiB, and one that is all zeroes. */
const ODD: readonly BareDisk[] = [
	{name: 'vda', sizeBytes: 8 * MIB, fill: 0xaa, format: 'qcow2'},
	{name: 'vdb', sizeBytes: 4 * MIB + 512, fill: 0xbb, format: 'raw'},
	{name: 'vdc', sizeBytes: 10_498_560, format: 'qcow2'},
	{name: 'vdd', sizeBytes: 512, fill: 0xdd, format: 'raw'},
	{name: 'vde', sizeBytes: 64 * MIB, format: 'qcow2'},
];

async function expectNothingInside({vm}: WrittenVm): Promise<void> {
	const {jobs, nodes} = await inside(vm.qmp);
	expect([...jobs, ...nodes].filter(name => name.startsWith('qsc-'))).toEqual([]);
}

test.each([
	['fleece', 'none', 'web1.vma'],
	['push', 'none', 'web1.vma'],
	['fleece', 'zstd', 'web1.vma.zst'],
] as const)('an archive made by %s, %s, has what all disks held at the cut', async (method, compression, name) => {
	const written = await new WrittenVm(ODD).start();
	for (const {name: disk, sizeBytes} of ODD) if (sizeBytes > MIB) await written.writeAround(disk);
	const file = path.join(temporaryFolder(), name);
	const disks = ODD.filter(({sizeBytes}) => sizeBytes > MIB);
	const held = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
	const messages = await collect(exportVm(requestFor(written, file, {method, compression})), async ({kind}) => {
		if (kind === 'cut') for (const {name: disk} of disks) await written.writeAround(disk, 3);
	});
	expect(messages.at(-1)).toMatchObject({kind: 'finished', file, consistency: 'crash-consistent', warnings: []});
	await expectArchived(file, held);
	const [verified] = (await collect(verifyArchive({kind: 'file', path: file}, signal))).slice(-1);
	expect(verified).toMatchObject({kind: 'finished', checked: 'by-index', problem: undefined});
	expect(await listArchive({kind: 'file', path: file}, signal)).toMatchObject({
		configs: ['qemu-server.conf', 'machine.json', 'quiesce.json'],
		disks: ODD.map(({name: disk, sizeBytes}, index) => ({disk, device: `drive-virtio${index}`, sizeBytes})),
	});
	expect(fs.statSync(file).mode & 0o777).toBe(0o600);
	expect(fs.readdirSync(path.dirname(file)).sort()).toEqual([name, `${name}.index.json`]);
	await expectNothingInside(written);
	expectNothingLeftOutside(temporaryFolder());
});

test('a stream gets the same archive, and a reader that goes away ends it with nothing left', async () => {
	const written = await new WrittenVm().start();
	const file = path.join(temporaryFolder(), 'streamed.vma');
	const writing = spawn('sh', ['-c', 'exec cat >"$1"', 'sh', file], {stdio: ['pipe', 'ignore', 'inherit']});
	const stream = Object.assign(writing.stdin, {fd: -1});
	const {held} = await exportWritten(written, file, {target: {kind: 'stream', stream}});
	stream.end();
	await once(writing, 'close');
	await expectArchived(file, held);
	const gone = spawn('true', {stdio: ['pipe', 'ignore', 'inherit']});
	await once(gone, 'exit');
	const broken = exportWritten(written, file, {target: {kind: 'stream', stream: Object.assign(gone.stdin, {fd: -1})}});
	await expect(broken).rejects.toThrow(/EPIPE|write/);
	await expectNothingInside(written);
	expectNothingLeftOutside(temporaryFolder());
});

test('a reader that takes nothing is given up, and the guest never waits for it', async () => {
	const written = await new WrittenVm([{name: 'vda', sizeBytes: 64 * MIB, fill: 0xaa, format: 'raw'}]).start();
	const asleep = spawn('sleep', ['600'], {stdio: ['pipe', 'ignore', 'inherit']});
	const stream = Object.assign(asleep.stdin, {fd: -1});
	const stuck = exportWritten(written, '', {target: {kind: 'stream', stream}, targetTimeoutMs: 2_000});
	await expect(stuck).rejects.toThrow(/made no progress for 2 s/);
	await written.write('vda', 0, 64 * 1024);
	asleep.kill('SIGKILL');
	await expectNothingInside(written);
	expectNothingLeftOutside(temporaryFolder());
});

test('what fails or is cancelled leaves no file, and nothing that exists is overwritten', async () => {
	const written = await new WrittenVm().start();
	const folder = temporaryFolder();
	const file = path.join(folder, 'web1.vma');
	const cancelling = new AbortController();
	const cancelled = collect(exportVm(requestFor(written, file, {signal: cancelling.signal})), ({kind}) => {
		if (kind === 'cut') cancelling.abort(new CancelledError());
	});
	await expect(cancelled).rejects.toThrow(CancelledError);
	expect(fs.readdirSync(folder)).toEqual([]);
	const full = path.join(temporaryMount(8), 'web1.vma');
	await expect(exportWritten(written, full)).rejects.toThrow(/no space is left|ENOSPC/);
	expect(fs.readdirSync(path.dirname(full))).toEqual([]);
	fs.writeFileSync(file, 'theirs');
	await expect(exportWritten(written, file)).rejects.toMatchObject({code: 'USAGE'});
	expect(fs.readFileSync(file, 'utf8')).toBe('theirs');
	const wrong = {config: '#qmdump#map:scsi0:drive-scsi0::raw:\n'};
	await expect(exportWritten(written, path.join(folder, 'other.vma'), wrong)).rejects.toThrow(
		/drive-virtio0 is missing, drive-virtio1 is missing, there is no drive-scsi0$/,
	);
	expect(fs.readdirSync(folder)).toEqual(['web1.vma']);
	await expectNothingInside(written);
	expectNothingLeftOutside(temporaryFolder());
});

test('an export that was killed is begun anew by the next, and a file that is none of its own is left', async () => {
	const written = await new WrittenVm().start();
	const file = path.join(temporaryFolder(), 'web1.vma');
	const args = ['export', '--qmp', written.vm.qmpPath, '--output', file, '--quiesce', 'never'];
	const tool = startToolAt('qmp <- blockdev-reopen #1', args);
	expect(await tool.stopped).toBe(true);
	await tool.killBoth();
	expect(fs.readdirSync(path.dirname(file)).sort()).toEqual(['web1.vma.index.json.partial', 'web1.vma.partial']);
	const {held} = await exportWritten(written, file, {});
	await expectArchived(file, held);
	expect(fs.readdirSync(path.dirname(file)).sort()).toEqual(['web1.vma', 'web1.vma.index.json']);
	await expectNothingInside(written);
	const other = path.join(temporaryFolder(), 'web1.vma');
	fs.writeFileSync(`${other}.partial`, 'a letter');
	await expect(exportWritten(written, other, {})).rejects.toThrow(
		'web1.vma.partial exists, and is no archive that was begun',
	);
	expect(fs.readFileSync(`${other}.partial`, 'utf8')).toBe('a letter');
});

test('a reader that stalls for ever ends the export, and no write of the guest waits for it', async () => {
	const written = await new WrittenVm().start();
	const asleep = spawn('sleep', ['60'], {stdio: ['pipe', 'ignore', 'inherit']});
	onTestFinished(() => void asleep.kill());
	const target = {kind: 'stream' as const, stream: asleep.stdin};
	const stalled = exportWritten(written, 'nowhere', {target, targetTimeoutMs: 1_500});
	await expect(stalled).rejects.toThrow(/made no progress for \d s/);
	await expectNothingInside(written);
	expectNothingLeftOutside(temporaryFolder());
});
