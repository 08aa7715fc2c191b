import {spawn, type ChildProcess} from 'node:child_process';
import {once} from 'node:events';
import {mkdtemp, open, readFile, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Finished} from './command.ts';
import {connectControl} from './control.ts';
import {blankImage, ext4Image, type Image, type ImageFormat} from './disks.ts';
import {guestParts} from './parts.ts';
import {consoleSays, rawStatsIn, type RawStats} from './serial.ts';

/** Guest names of the disks: `vda` and `vdb` carry ext4, `vdc` and `vdd` belong to the raw writer. */
export type DiskName = 'vda' | 'vdb' | 'vdc' | 'vdd';

export interface GuestOptions {
	/** QEMU's `-name`. */
	readonly name?: string;
	/** The program; else `QUIESCE_TEST_QEMU`, else `qemu-system-x86_64`. */
	readonly qemu?: string;
	readonly memoryMib?: number;
	/** Of new disks; default raw. */
	readonly format?: ImageFormat;
	/** Of each ext4 disk; default 64 MiB. */
	readonly bytes?: number;
	/** How much of each ext4 disk files take from the start; default none. */
	readonly fillBytes?: number;
	/** Of each raw disk; default 16 MiB. */
	readonly rawBytes?: number;
	/** `writing` gives the guest vdc and vdd and starts the raw writer; `idle` only gives them; default `none`. */
	readonly raw?: 'none' | 'idle' | 'writing';
	/** Raw writes a second at most. */
	readonly rawRate?: number;
	/** The raw write to begin with, where the disks carry the ones before. */
	readonly rawFrom?: number;
	/** Whether the stamp writer runs; default `writing`. */
	readonly stamps?: 'writing' | 'none';
	/** See `fixtures/guest/hook`; `none` runs the agent without a hook; default `ok`. */
	readonly hook?: string;
	/** Default `running`. Without an agent its port and socket are still there. */
	readonly agent?: 'running' | 'none';
	/** Disks that exist, in place of new ones. They stay when the guest is gone. */
	readonly images?: Partial<Readonly<Record<DiskName, Image>>>;
	/**
	 * `blockdev`: nodes `disk-vda` on `file-vda`, device id `vda`. `drive`: drive id `drive-vda`, device id `vda`.
	 * `plain`: `-drive if=virtio` as people type it, with no ids at all. Default `blockdev`.
	 */
	readonly disks?: 'blockdev' | 'drive' | 'plain';
	/** I/O threads `io0`…, dealt to the disks in turn; else `QUIESCE_TEST_IOTHREADS`, else 0. Not with `plain`. */
	readonly iothreads?: number;
	/** QEMU's cache mode; default `writeback`. */
	readonly cache?: 'writeback' | 'none' | 'unsafe';
	/** More properties of every disk's device, such as `werror=report`. Not with `plain`. */
	readonly deviceProperties?: readonly string[];
	readonly extraArgs?: readonly string[];
	/** Whether the folder stays after `kill`; default `remove`. */
	readonly folder?: 'remove' | 'keep';
	/** Until the guest is ready; default 60 s. */
	readonly timeoutMs?: number;
}

export interface Guest extends AsyncDisposable {
	readonly name: string;
	/** Everything of this guest is here; nobody else may look into it. */
	readonly dir: string;
	readonly qmpPath: string;
	/** A second monitor, for the test to look on. */
	readonly qmp2Path: string;
	readonly agentPath: string;
	readonly serialPath: string;
	readonly images: ReadonlyMap<DiskName, Image>;
	readonly pid: number;
	readonly process: ChildProcess;
	/** Once QEMU has ended, by whatever means. Never rejects. */
	readonly exited: Promise<{code: number | null; signal: NodeJS.Signals | null}>;
	/** From the start of QEMU to the guest's ready line. */
	readonly bootMs: number;
	/** Runs a shell script in the guest, as root. Any exit code is an answer. */
	run: (script: string, timeoutMs?: number) => Promise<Finished>;
	/** The trimmed stdout of a script that must succeed. */
	read: (script: string, timeoutMs?: number) => Promise<string>;
	/** The stamps that the guest sees, a first: b may be ahead, as the writer goes on between the two. */
	stamps: () => Promise<{a: number; b: number}>;
	/** What the raw writer counts at this moment. */
	rawStats: () => Promise<RawStats>;
	/** Ends the raw writer after the write in hand; from then on `count` is exact. */
	rawStop: () => Promise<RawStats>;
	/** Resolves with the whole console as soon as it matches; deadline 30 s. */
	consoleSays: (pattern: RegExp, timeoutMs?: number) => Promise<string>;
	/**
	 * Ends QEMU and leaves the folder for looking into. SIGKILL, the default, is a power cut: a qcow2 disk then lacks
	 * writes that the guest has not flushed, and the raw writer never flushes. SIGTERM lets QEMU close its images.
	 */
	end: (signal?: NodeJS.Signals) => Promise<void>;
	/** Ends QEMU and removes the folder. May be called again. */
	kill: () => Promise<void>;
}

/** Boots a guest of its own; resolves when it is ready, the agent's port is open and the writers write. */
export const startGuest = async (options: GuestOptions = {}): Promise<Guest> => {
	const parts = await guestParts();
	const dir = await mkdtemp(join(tmpdir(), 'quiesce-guest-'));
	const remove = async (): Promise<void> => {
		if (options.folder !== 'keep') await rm(dir, {recursive: true, force: true});
	};
	try {
		const images = await prepareImages(options, dir);
		return await boot(options, {...parts, dir, images, remove});
	} catch (error) {
		await remove();
		throw error;
	}
};

const prepareImages = async (options: GuestOptions, dir: string): Promise<Map<DiskName, Image>> => {
	const format = options.format ?? 'raw';
	const images = new Map<DiskName, Image>();
	for (const [name, label] of [
		['vda', 'a'],
		['vdb', 'b'],
	] as const) {
		const path = join(dir, `${name}.${format}`);
		images.set(
			name,
			options.images?.[name] ??
				(await ext4Image(path, format, options.bytes ?? 64 << 20, options.fillBytes ?? 0, label)),
		);
	}
	if ((options.raw ?? 'none') === 'none') return images;
	for (const name of ['vdc', 'vdd'] as const) {
		const path = join(dir, `${name}.${format}`);
		images.set(name, options.images?.[name] ?? (await blankImage(path, format, options.rawBytes ?? 16 << 20)));
	}
	return images;
};

interface Machine {
	readonly kernel: string;
	readonly initramfs: string;
	readonly dir: string;
	readonly images: ReadonlyMap<DiskName, Image>;
	readonly remove: () => Promise<void>;
}

const boot = async (options: GuestOptions, machine: Machine): Promise<Guest> => {
	const {dir, images} = machine;
	const name = options.name ?? 'guest';
	const path = (file: string): string => join(dir, file);
	const serialPath = path('serial.log');
	await using log = await open(path('qemu.log'), 'w');
	await (await open(serialPath, 'w')).close();

	const program = options.qemu ?? process.env['QUIESCE_TEST_QEMU'] ?? 'qemu-system-x86_64';
	const start = performance.now();
	// QEMU goes when we go, also when we are killed. setpriv becomes QEMU: the process id is QEMU's.
	const qemu = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...arguments_(options, machine, name)], {
		stdio: ['ignore', log.fd, log.fd],
		// Ctrl-C at the terminal is not for the VM.
		detached: true,
	});
	const exited = once(qemu, 'exit').then(
		([code, signal]: (number | NodeJS.Signals | null)[]) => ({
			code: code as number | null,
			signal: signal as NodeJS.Signals | null,
		}),
		() => ({code: null, signal: null}),
	);
	const end = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
		qemu.kill(signal);
		await exited;
	};

	try {
		const gone = new AbortController();
		void exited.then(({code, signal}) => {
			gone.abort(new Error(`QEMU ended before the guest was ready: ${signal ?? `exit code ${code ?? 'none'}`}`));
		});
		const deadline = AbortSignal.timeout(options.timeoutMs ?? 60_000);
		const pattern = /quiesce-guest: (ready|failed: .*)|Kernel panic.*/;
		const text = await consoleSays(serialPath, pattern, AbortSignal.any([gone.signal, deadline]));
		const bootMs = performance.now() - start;
		if (!text.includes('quiesce-guest: ready')) throw new Error(`the guest did not start: ${pattern.exec(text)![0]}`);
		const control = await connectControl(path('control.sock'));

		const read = async (script: string, timeoutMs?: number): Promise<string> => {
			const {code, stdout, stderr} = await control.run(script, timeoutMs);
			if (code !== 0) throw new Error(`in the guest: ${script}: exit code ${code}: ${stderr.trim() || stdout.trim()}`);
			return stdout.trim();
		};
		const rawStats = async (mode: 'raw-stats' | 'raw-stop'): Promise<RawStats> => {
			const [stats] = rawStatsIn(await read(`[ -e /run/raw.state ] && writer ${mode} /run/raw.state`));
			if (stats === undefined) throw new Error('the guest has no raw writer');
			return stats;
		};
		const kill = async (): Promise<void> => {
			control.close();
			await end();
			await machine.remove();
		};
		return {
			name,
			dir,
			qmpPath: path('qmp.sock'),
			qmp2Path: path('qmp2.sock'),
			agentPath: path('qga.sock'),
			serialPath,
			images,
			pid: qemu.pid!,
			process: qemu,
			exited,
			bootMs,
			run: (script, timeoutMs) => control.run(script, timeoutMs),
			read,
			stamps: async () => {
				const [a, b] = (await read('cat /mnt/a/stamp /mnt/b/stamp')).split('\n');
				return {a: Number(a), b: Number(b)};
			},
			rawStats: () => rawStats('raw-stats'),
			rawStop: () => rawStats('raw-stop'),
			consoleSays: (wanted, timeoutMs = 30_000) =>
				consoleSays(serialPath, wanted, AbortSignal.any([gone.signal, AbortSignal.timeout(timeoutMs)])),
			end,
			kill,
			[Symbol.asyncDispose]: kill,
		};
	} catch (error) {
		await end();
		const said = await Promise.all([readFile(path('qemu.log'), 'utf8'), readFile(serialPath, 'utf8')]);
		throw new Error(`no guest: ${String(error)}\n${said.map(text => text.slice(-2000)).join('\n')}`, {cause: error});
	}
};

const arguments_ = (options: GuestOptions, {kernel, initramfs, dir, images}: Machine, name: string): string[] => {
	const threads = options.iothreads ?? Number(process.env['QUIESCE_TEST_IOTHREADS'] ?? 0);
	return [
		...['-name', name, '-nodefaults', '-display', 'none', '-no-user-config'],
		...['-machine', 'q35,accel=tcg', '-cpu', 'qemu64', '-smp', '1', '-m', String(options.memoryMib ?? 256)],
		...['-kernel', kernel, '-initrd', initramfs, '-append', commandLine(options)],
		...['-serial', `file:${join(dir, 'serial.log')}`],
		...['-qmp', `unix:${join(dir, 'qmp.sock')},server=on,wait=off`],
		...['-qmp', `unix:${join(dir, 'qmp2.sock')},server=on,wait=off`],
		...['-device', 'virtio-serial-pci,id=serial0'],
		...port(dir, 'qga', 'org.qemu.guest_agent.0'),
		...port(dir, 'control', 'quiesce.control'),
		...Array.from({length: threads}, (_, index) => ['-object', `iothread,id=io${index}`]).flat(),
		...Array.from(images.entries()).flatMap(([disk, image], index) =>
			diskArguments(options, disk, image, threads > 0 ? `io${index % threads}` : undefined),
		),
		...(options.extraArgs ?? []),
	];
};

const commandLine = (options: GuestOptions): string =>
	[
		// On a busy host the emulated timer is late, which the kernel's check of it takes for a broken one.
		'console=ttyS0 quiet panic=-1 no_timer_check',
		// Each takes some tenths of a second of an emulated boot.
		'cryptomgr.notests tsc=reliable',
		`qsc.stamp=${options.stamps === 'none' ? 0 : 1}`,
		`qsc.hook=${options.hook ?? 'ok'}`,
		`qsc.agent=${options.agent === 'none' ? 0 : 1}`,
		...(options.raw === 'writing' ? ['qsc.raw=vdc,vdd'] : []),
		`qsc.rate=${options.rawRate ?? 0}`,
		`qsc.from=${options.rawFrom ?? 0}`,
	].join(' ');

const port = (dir: string, id: string, name: string): string[] => [
	...['-chardev', `socket,path=${join(dir, `${id}.sock`)},server=on,wait=off,id=${id}`],
	...['-device', `virtserialport,chardev=${id},name=${name},id=${id}-port`],
];

const diskArguments = (options: GuestOptions, disk: DiskName, image: Image, thread: string | undefined): string[] => {
	const cache = options.cache ?? 'writeback';
	const {path, format} = image;
	if (options.disks === 'plain') return ['-drive', `if=virtio,file=${path},format=${format},cache=${cache}`];
	const device = [
		'virtio-blk-pci',
		`id=${disk}`,
		`serial=${disk}`,
		...(thread === undefined ? [] : [`iothread=${thread}`]),
		...(options.deviceProperties ?? []),
	];
	if (options.disks === 'drive') {
		return [
			...['-drive', `if=none,id=drive-${disk},file=${path},format=${format},cache=${cache}`],
			...['-device', [...device, `drive=drive-${disk}`].join(',')],
		];
	}
	const mode = {'direct': cache === 'none', 'no-flush': cache === 'unsafe'};
	const file = {'driver': 'file', 'filename': path, 'node-name': `file-${disk}`, 'cache': mode};
	const node = {'driver': format, 'file': `file-${disk}`, 'node-name': `disk-${disk}`, 'cache': mode};
	return [
		...['-blockdev', JSON.stringify(file), '-blockdev', JSON.stringify(node)],
		...['-device', [...device, `drive=disk-${disk}`].join(',')],
	];
};
