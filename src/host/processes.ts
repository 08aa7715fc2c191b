import fs from 'node:fs/promises';
import path from 'node:path';
import {readStartTicks} from './start-ticks.ts';
import {holdersOf} from './unix-sockets.ts';

/** A process as it was when it was looked at; it may be gone by the time this is read. */
export interface HostProcess {
	readonly pid: number;
	/** Empty where it may not be known. */
	readonly argv: readonly string[];
	/** The executable's path, where it may be known. */
	readonly exe: string | undefined;
	/** Where it may be known. A daemonized QEMU has moved to `/`. */
	readonly cwd: string | undefined;
	/** The effective user. */
	readonly uid: number;
	/** When it started, in clock ticks after boot: with the pid it names one process for ever. */
	readonly startTicks: number;
}

const QEMU_NAME = /^\.?(?:qemu-system-[^/]+|qemu-kvm|kvm|qemu)$/;

/** The QEMU system emulators of this host, as far as this user may see them, by pid. */
export async function listQemuProcesses(proc = '/proc'): Promise<HostProcess[]> {
	const pids = (await fs.readdir(proc)).filter(name => /^\d+$/.test(name)).map(Number);
	const found = await Promise.all(pids.sort((a, b) => a - b).map(pid => readProcess(proc, pid)));
	return found.filter(candidate => candidate !== undefined).filter(isQemu);
}

/**
 * The process that listens on a Unix socket: where several hold it, after a fork, the QEMU among them. Undefined if
 * none does, or if this user may not see whose it is. Looks into this network namespace; never connects.
 */
export async function processServing(socketPath: string, proc = '/proc'): Promise<HostProcess | undefined> {
	const pids = (await holdersOf([socketPath], proc)).get(socketPath) ?? [];
	const holders = (await Promise.all(pids.map(pid => readProcess(proc, pid)))).filter(holder => holder !== undefined);
	return holders.find(isQemu) ?? holders[0];
}

/** Undefined for what ends meanwhile. */
async function readProcess(proc: string, pid: number): Promise<HostProcess | undefined> {
	const folder = path.join(proc, String(pid));
	try {
		const startTicks = await readStartTicks(folder);
		const argv = (await fs.readFile(path.join(folder, 'cmdline'), 'utf8')).split('\0').slice(0, -1);
		const exe = (await readLink(path.join(folder, 'exe')))?.replace(/ \(deleted\)$/, '');
		const uid = Number(/^Uid:\s+\d+\s+(\d+)/m.exec(await fs.readFile(path.join(folder, 'status'), 'utf8'))?.[1]);
		const cwd = await readLink(path.join(folder, 'cwd'));
		// The pid may have gone to another process while its files were read.
		return (await readStartTicks(folder)) === startTicks ? {pid, argv, exe, cwd, uid, startTicks} : undefined;
	} catch {
		return undefined;
	}
}

/** Not a zombie either: it has no arguments any more. */
export function isQemu({argv, exe}: HostProcess): boolean {
	return argv.length > 0 && [exe, argv[0]].some(program => program !== undefined && isQemuName(program));
}

function isQemuName(program: string): boolean {
	return QEMU_NAME.test(path.basename(program));
}

/** Undefined where the link is gone or not for this user to read. */
async function readLink(link: string): Promise<string | undefined> {
	return fs.readlink(link).catch(() => undefined);
}

/**
 * A socket path of a process, as this process can open it: relative to its folder, and inside its root when that is
 * another one (a container). Undefined if there is no such socket, or none that may be seen.
 */
export async function reachableSocket(
	{pid, cwd}: HostProcess,
	socketPath: string,
	proc = '/proc',
): Promise<string | undefined> {
	const absolute = path.isAbsolute(socketPath) ? socketPath : cwd && path.join(cwd, socketPath);
	if (absolute === undefined || absolute === '') return undefined;
	const inside = path.join(proc, String(pid), 'root') + path.resolve('/', absolute);
	// In another mount namespace the same path may name another VM's socket on our side. A QEMU with -chroot shares our
	// namespace and has bound its sockets before it changed its root.
	const order = (await sharesMounts(pid, proc)) ? [absolute, inside] : [inside];
	for (const candidate of order) {
		if (await isSocket(candidate)) return candidate;
	}
	return undefined;
}

/** Whether paths mean the same to a process as to us. True also where it may not be known. */
export async function sharesMounts(pid: number, proc = '/proc'): Promise<boolean> {
	const theirs = await readLink(path.join(proc, String(pid), 'ns/mnt'));
	const ours = await readLink(path.join(proc, 'self/ns/mnt'));
	return theirs === undefined || ours === undefined || theirs === ours;
}

async function isSocket(candidate: string): Promise<boolean> {
	return fs.stat(candidate).then(
		stat => stat.isSocket(),
		() => false,
	);
}
