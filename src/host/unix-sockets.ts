import fs from 'node:fs/promises';
import path from 'node:path';
import {canonicalAddress} from '../config/address.ts';
import {readStartTicks} from './start-ticks.ts';

interface Listener {
	readonly inode: string;
	/** As it was bound: perhaps relative, perhaps through links. */
	readonly path: string;
}

/** SO_ACCEPTCON, in the Flags column. */
const LISTENING = 0x10000;

/**
 * For each path that something listens on, the processes that hold the socket: several after a fork, none where this
 * user may not see them. Paths that nothing listens on in this network namespace are not in the map.
 */
export async function holdersOf(
	socketPaths: readonly string[],
	proc = '/proc',
): Promise<ReadonlyMap<string, readonly number[]>> {
	const listeners = await listListeners(proc);
	const candidates = new Map<string, readonly Listener[]>();
	for (const socketPath of socketPaths) {
		const matching = await listenersOn(socketPath, listeners);
		if (matching.length > 0) candidates.set(socketPath, matching);
	}
	const pids = await pidsByInode(new Set([...candidates.values()].flat().map(({inode}) => inode)), proc);
	const holders = new Map<string, readonly number[]>();
	for (const [socketPath, matching] of candidates) {
		const holdersHere: number[][] = [];
		for (const listener of matching) {
			const here: number[] = [];
			let elsewhere = false;
			for (const pid of pids.get(listener.inode) ?? []) {
				const bound = await whereBound(listener, pid, proc);
				if (bound === (await canonicalAddress({unix: socketPath}))) here.push(pid);
				else if (bound !== undefined) elsewhere = true;
			}
			if (here.length > 0 || (!elsewhere && (await isLeft(listener, proc)))) holdersHere.push(here);
		}
		if (holdersHere.length > 0) holders.set(socketPath, await youngest(holdersHere, proc));
	}
	return holders;
}

/** Whether it still listens: one whose process ended in between is nobody's, and not that of a process which may not be seen. */
async function isLeft({inode}: Listener, proc: string): Promise<boolean> {
	return (await listListeners(proc)).some(listener => listener.inode === inode);
}

/**
 * A name that was unlinked and bound again is in the kernel's table twice while both processes live. QEMU binds when it
 * starts, so the one that started last has the name. The sockets' inodes do not tell: each CPU counts its own.
 */
async function youngest(holders: readonly (readonly number[])[], proc: string): Promise<readonly number[]> {
	let last: {pids: readonly number[]; since: number} | undefined;
	for (const pids of holders) {
		if (pids.length === 0) continue;
		const starts = await Promise.all(pids.map(pid => readStartTicks(path.join(proc, String(pid))).catch(() => 0)));
		const since = Math.min(...starts);
		if (!last || since > last.since) last = {pids, since};
	}
	return last?.pids ?? [];
}

/** The path that the listening socket behind a process's descriptor is bound to. */
export async function pathOfDescriptor(pid: number, fd: number, proc = '/proc'): Promise<string | undefined> {
	const link = await fs.readlink(path.join(proc, String(pid), 'fd', String(fd))).catch(() => undefined);
	const inode = link === undefined ? undefined : inodeOf(link);
	return (await listListeners(proc)).find(listener => listener.inode === inode)?.path;
}

async function listListeners(proc: string): Promise<Listener[]> {
	const table = await fs.readFile(path.join(proc, 'net/unix'), 'utf8').catch(() => '');
	return table.split('\n').flatMap(line => {
		const fields = /^\S+: \S+ \S+ (?<flags>\S+) \S+ \S+ +(?<inode>\d+) (?<path>.+)$/.exec(line)?.groups;
		const {flags, inode, path: bound} = fields ?? {};
		if (flags === undefined || inode === undefined || bound === undefined) return [];
		return (parseInt(flags, 16) & LISTENING) !== 0 && !bound.startsWith('@') ? [{inode, path: bound}] : [];
	});
}

/** Those that are bound to the path; if none is, those with a relative name that may be it. */
async function listenersOn(socketPath: string, listeners: readonly Listener[]): Promise<Listener[]> {
	const wanted = await canonicalAddress({unix: socketPath});
	const bound: Listener[] = [];
	const relative: Listener[] = [];
	for (const listener of listeners) {
		if (path.basename(listener.path) !== path.basename(socketPath)) continue;
		if (!path.isAbsolute(listener.path)) relative.push(listener);
		else if ((await canonicalAddress({unix: listener.path})) === wanted) bound.push(listener);
	}
	return bound.length > 0 ? bound : relative;
}

/**
 * The canonical address. A relative name belongs to the folder that its process was in when it bound it: undefined for
 * one that has moved since, as a daemon does, and where its folder is not for this user to see.
 */
async function whereBound(listener: Listener, pid: number, proc: string): Promise<string | undefined> {
	if (path.isAbsolute(listener.path)) return canonicalAddress({unix: listener.path});
	const cwd = await fs.readlink(path.join(proc, String(pid), 'cwd')).catch(() => undefined);
	if (cwd === undefined) return undefined;
	const unix = path.join(cwd, listener.path);
	const isSocket = await fs.stat(unix).then(
		status => status.isSocket(),
		() => false,
	);
	return isSocket ? canonicalAddress({unix}) : undefined;
}

async function pidsByInode(inodes: ReadonlySet<string>, proc: string): Promise<Map<string, number[]>> {
	const found = new Map<string, number[]>();
	if (inodes.size === 0) return found;
	const pids = (await fs.readdir(proc)).filter(name => /^\d+$/.test(name)).map(Number);
	for (const pid of pids.sort((a, b) => a - b)) {
		for (const inode of await socketsOf(pid, proc)) {
			if (inodes.has(inode)) found.set(inode, [...(found.get(inode) ?? []), pid]);
		}
	}
	return found;
}

/** None where the process is gone, or is not for this user to look into. */
async function socketsOf(pid: number, proc: string): Promise<Set<string>> {
	const folder = path.join(proc, String(pid), 'fd');
	const names = await fs.readdir(folder).catch(() => []);
	const links = await Promise.all(names.map(name => fs.readlink(path.join(folder, name)).catch(() => '')));
	return new Set(links.flatMap(link => inodeOf(link) ?? []));
}

function inodeOf(link: string): string | undefined {
	return /^socket:\[(\d+)\]$/.exec(link)?.[1];
}
