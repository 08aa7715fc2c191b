import {randomUUID} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {onTestFinished, vi} from 'vitest';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {type RealQemu, startQemu} from '../support/real-qemu.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';

export const MIB = 1024 * 1024;

export interface BareDisk {
	/** Of the device, and so of the disk. */
	readonly name: string;
	readonly sizeBytes: number;
	/** Every byte of it at first. */
	readonly fill?: number;
	readonly by?: 'blockdev' | 'drive';
	/** Whether it has one of its own; else if `QUIESCE_TEST_IOTHREADS` is a number over 0. */
	readonly iothread?: boolean;
	/** Others may write to its node too. */
	readonly shared?: boolean;
	/** Of its image; raw by default. */
	readonly format?: 'raw' | 'qcow2';
	/** Another image than the one that is made for it. */
	readonly image?: string;
	/** Its `-blockdev` without a node's name, where it is no file in a format of these. */
	readonly blockdev?: string;
}

/** A VM whose processors never run: the test is its guest. */
export interface BareVm extends RealQemu {
	/** On the second monitor. */
	readonly qmp: QmpConnection;
	/** Writes through the device, as the guest would, with a byte of its own. */
	write(disk: string, pattern: number, offset: number, bytes: number): Promise<void>;
	/** The image behind a disk. */
	file(disk: string): string;
}

/** Every run of this test keeps its folder in one of the test's own. Returns it. */
export function ownRuntimeFolder(): string {
	const folder = temporaryFolder();
	fs.chmodSync(folder, 0o711);
	vi.stubEnv('QUIESCE_RUNTIME_DIR', folder);
	onTestFinished(() => {
		vi.unstubAllEnvs();
		// The daemons of runs that the test has killed.
		for (const pid of processesNaming(path.join(folder, 'run-'))) process.kill(pid, 'SIGKILL');
	});
	return folder;
}

export async function openQmp(unix: string): Promise<QmpConnection> {
	const qmp = await QmpConnection.open({unix});
	onTestFinished(() => qmp.close());
	return qmp;
}

/** Of the commands that only tests send. Returns what QEMU does. */
export function executeAny(qmp: QmpConnection, command: string, args: object = {}): Promise<unknown> {
	return (qmp as unknown as {execute(command: string, args: object): Promise<unknown>}).execute(command, args);
}

export async function hmp(qmp: QmpConnection, line: string): Promise<string> {
	return String(await executeAny(qmp, 'human-monitor-command', {'command-line': line}));
}

/** Does what a `qemu-io` command says, through the device. QEMU does not tell how it went: the image shows it. */
export async function qemuIo(qmp: QmpConnection, device: string, command: string): Promise<void> {
	const said = await hmp(qmp, `qemu-io -d ${device} "${command}"`);
	if (said.trim() !== '') throw new Error(said);
}

export interface BareVmOptions {
	readonly name?: string | null;
	readonly uuid?: string;
	readonly args?: readonly string[];
	/** Where the images are: those that are there already are used as they are. */
	readonly folder?: string;
}

/** A q35 with its disks as files in a folder of its own. */
export async function startVm(
	disks: readonly BareDisk[],
	{name = 'web', uuid = randomUUID(), args = [], folder = temporaryFolder()}: BareVmOptions = {},
): Promise<BareVm> {
	fs.chmodSync(folder, 0o755);
	const file = (disk: string) => {
		const {format = 'raw', image} = disks.find(candidate => candidate.name === disk)!;
		return image ?? path.join(folder, `${disk}.${format}`);
	};
	for (const disk of disks) {
		if (disk.blockdev === undefined && !fs.existsSync(file(disk.name))) makeImage(disk, file(disk.name));
	}
	const qemu = await startQemu(
		...['-M', 'q35', '-S'],
		// Runs on VMs of one identity would wait for one another, also in tests that run at the same time.
		...(name === null ? [] : ['-name', name, '-uuid', uuid]),
		...disks.flatMap(disk => diskArgs(disk, file(disk.name))),
		...args,
	);
	const qmp = await openQmp(qemu.secondQmpPath);
	return {
		...qemu,
		qmp,
		file,
		write: (disk, pattern, offset, bytes) =>
			qemuIo(qmp, `/machine/peripheral/${disk}/virtio-backend`, `write -P ${pattern} ${offset} ${bytes}`),
	};
}

function makeImage({sizeBytes, fill = 0, format = 'raw'}: BareDisk, file: string): void {
	const raw = format === 'raw' ? file : `${file}.raw`;
	fs.writeFileSync(raw, Buffer.alloc(sizeBytes, fill));
	if (format === 'raw') return;
	qemuImg('convert', '-f', 'raw', '-O', format, raw, file);
	fs.rmSync(raw);
}

const byDefault = Number(process.env['QUIESCE_TEST_IOTHREADS'] ?? 0) > 0;

function diskArgs(
	{name, by = 'blockdev', iothread = byDefault, shared = false, format = 'raw', blockdev}: BareDisk,
	file: string,
): string[] {
	const drive = by === 'drive' ? `drive-${name}` : `${name}-node`;
	return [
		...(by === 'drive'
			? ['-drive', `if=none,id=${drive},format=${format},discard=unmap,file=${file}`]
			: [
					'-blockdev',
					`node-name=${drive},discard=unmap,${blockdev ?? `driver=${format},file.driver=file,file.filename=${file}`}`,
				]),
		...(iothread ? ['-object', `iothread,id=io-${name}`] : []),
		'-device',
		`virtio-blk-pci,id=${name},drive=${drive}${iothread ? `,iothread=io-${name}` : ''}${shared ? ',share-rw=on' : ''}`,
	];
}

/** Names of jobs and of named nodes inside, sorted. */
export async function inside(qmp: QmpConnection): Promise<{jobs: string[]; nodes: string[]}> {
	const jobs = await qmp.execute('query-jobs');
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	const names = nodes.map(node => node['node-name'] ?? '').filter(node => !node.startsWith('#'));
	return {jobs: jobs.map(job => job.id).sort(), nodes: names.sort()};
}

/** The processes whose command line names `word`. */
export function processesNaming(word: string): number[] {
	return fs
		.readdirSync('/proc')
		.filter(entry => /^\d+$/.test(entry) && Number(entry) !== process.pid)
		.filter(pid => {
			try {
				return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(word);
			} catch {
				return false;
			}
		})
		.map(Number);
}

/** False for a zombie too, which only waits for its parent. */
export function isRunning(pid: number): boolean {
	try {
		return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8') !== '';
	} catch {
		return false;
	}
}

/** Looks again until it is so; fails with the last answer when the time is over. */
export async function eventually(isSo: () => boolean | Promise<boolean>, ms = 10_000): Promise<void> {
	await vi.waitFor(
		async () => {
			if (!(await isSo())) throw new Error('it never came to be so');
		},
		{timeout: ms, interval: 20},
	);
}
