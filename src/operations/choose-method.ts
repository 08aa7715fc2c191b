import fs from 'node:fs/promises';
import path from 'node:path';
import {capabilitiesOf} from '../block/probe.ts';
import type {CutMethod} from '../cut/cut.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {type HostProcess, sharesMounts} from '../host/processes.ts';
import type {OverlayDisk} from './overlay-disks.ts';
import type {DiskWithMedium} from './select-disks.ts';
import type {Session} from './vm-session.ts';

export interface MethodWishes {
	/** Undefined: the best that the VM can. `overlay` is none of those, and is looked at by `findOverlayDisks`. */
	readonly method?: Exclude<CutMethod, 'overlay'> | undefined;
	/** Where scratch of all disks goes, instead of beside their images. */
	readonly scratch?: string | undefined;
}

export interface ChosenMethod {
	readonly method: CutMethod;
	/** Why not the better one; undefined where it is the best, or was asked for. */
	readonly because?: string;
	/** By the disk's name; of those that the guest can write, and only for `fleece`. */
	readonly scratchFolders: ReadonlyMap<string, string>;
	/** For `overlay` alone. */
	readonly overlays?: readonly OverlayDisk[];
}

/**
 * `fleece` where the VM can, else `push`. Throws `REFUSED` if `fleece` was asked for and cannot be had. `qemu` is the
 * VM's process, where it is known.
 */
export async function chooseMethod(
	{method, scratch}: MethodWishes,
	vm: Pick<Session, 'schema' | 'qmp' | 'power'>,
	disks: readonly DiskWithMedium[],
	qemu: HostProcess | undefined,
): Promise<ChosenMethod> {
	if (vm.power === 'off') return chooseForOff(method);
	if (method === 'push') return {method, scratchFolders: new Map()};
	if (method === 'pull') requireSafeExports(vm, disks);
	const found = await findScratch(scratch, vm, disks, qemu);
	if (typeof found !== 'string') return {method: method ?? 'fleece', scratchFolders: found};
	if (method) {
		throw new QuiesceError('REFUSED', `this VM cannot be backed up by ${method}: ${found}`, {
			hint: 'Leave out --method, or use --method push.',
		});
	}
	return {method: 'push', because: found, scratchFolders: new Map()};
}

/** Nobody writes to the disks, so nobody has to be kept from waiting. */
function chooseForOff(method: CutMethod | undefined): ChosenMethod {
	if (method === undefined || method === 'push') return {method: 'push', scratchFolders: new Map()};
	throw new UsageError(`--method ${method} is for a VM that runs`, {hint: 'Leave out --method.'});
}

/** Throws if QEMU could abort: before 9.0, when exports of disks with I/O threads end (blockdev-nbd.c nbd_blockdev_client_closed). */
export function requireSafeExports(
	{schema, qmp}: Pick<Session, 'schema' | 'qmp'>,
	disks: readonly DiskWithMedium[],
): void {
	if (capabilitiesOf(schema, qmp.version)['pull-with-iothreads'].available) return;
	const threaded = disks.find(({iothread}) => iothread !== undefined);
	if (!threaded) return;
	const {major, minor, micro} = qmp.version.qemu;
	throw new QuiesceError(
		'REFUSED',
		`${threaded.name} has an I/O thread, and QEMU ${major}.${minor}.${micro} can abort when it exports such disks`,
		{hint: 'Use `quiesce backup` by another method, or `quiesce export`, which are safe there; or QEMU 9.0 or newer.'},
	);
}

/** The folder for each disk, or why fleecing cannot be done. */
async function findScratch(
	scratch: string | undefined,
	{schema, qmp}: Pick<Session, 'schema' | 'qmp'>,
	disks: readonly DiskWithMedium[],
	qemu: HostProcess | undefined,
): Promise<ReadonlyMap<string, string> | string> {
	const capabilities = capabilitiesOf(schema, qmp.version);
	for (const name of ['copy-before-write', 'snapshot-access', 'on-cbw-error', 'cbw-timeout'] as const) {
		if (!capabilities[name].available) return `its QEMU has no ${name}, which came with ${capabilities[name].since}`;
	}
	if (qemu && !(await sharesMounts(qemu.pid))) {
		return 'its QEMU has a mount namespace of its own, as in a container, so it cannot open a scratch file of ours';
	}
	const roots = disks.map(({medium}) => medium.rootNode);
	const shared = disks.find(({medium}, index) => roots.indexOf(medium.rootNode) !== index);
	if (shared) return `${shared.name} and another device share the node ${shared.medium.rootNode}`;
	const busy = disks.find(({medium}) => medium.hiddenFilter !== undefined);
	if (busy) return `another program has a job on ${busy.name} (its filter is ${busy.medium.hiddenFilter ?? ''})`;
	const folders = new Map<string, string>();
	for (const disk of disks.filter(isWritten)) {
		const folder = scratch === undefined ? await folderOf(disk, qemu) : path.resolve(scratch);
		if (folder === undefined) {
			return `${disk.name} lies in no folder of this host (${disk.medium.filename}); name one for scratch with --scratch`;
		}
		folders.set(disk.name, folder);
	}
	return folders;
}

/** Whether the guest can write to the disk, so that old data has to be kept from it. */
function isWritten({qdev, medium}: DiskWithMedium): boolean {
	return qdev !== undefined && !medium.readOnly;
}

async function folderOf(
	{medium: {protocol, filename}}: DiskWithMedium,
	qemu: HostProcess | undefined,
): Promise<string | undefined> {
	if (protocol !== 'file' || filename.startsWith('json:')) return undefined;
	if (path.isAbsolute(filename)) return path.dirname(filename);
	if (qemu?.cwd === undefined) return undefined;
	// A QEMU that made itself a daemon has left the folder that the name was relative to.
	const file = path.join(qemu.cwd, filename);
	return (await isThere(file)) ? path.dirname(file) : undefined;
}

async function isThere(file: string): Promise<boolean> {
	return fs.access(file).then(
		() => true,
		() => false,
	);
}

/** Each of them once. */
export function scratchFolders({scratchFolders: folders}: ChosenMethod): string[] {
	return [...new Set(folders.values())];
}
