import fs from 'node:fs/promises';
import path from 'node:path';

/** Who has a file open, for reading or for writing. */
export interface ImageUser {
	readonly file: string;
	/** Undefined where it is known by its lock alone, as with another user's process. */
	readonly pid?: number;
	/** The program's short name. */
	readonly name?: string;
}

/**
 * Who of this host has one of these files open: by the descriptors of the processes that this user may look into, and by the
 * locks that QEMU takes on every image that it opens, which all may see.
 */
export async function usersOf(files: readonly string[], proc = '/proc'): Promise<readonly ImageUser[]> {
	const found: ImageUser[] = [];
	const byPath = new Map<string, string>();
	const byInode = new Map<string, string>();
	for (const file of files) {
		const stat = await fs.stat(file).catch(() => undefined);
		if (!stat) continue;
		byPath.set(await fs.realpath(file), file);
		byInode.set(`${major(stat.dev)}:${minor(stat.dev)}:${stat.ino}`, file);
	}
	for (const pid of (await fs.readdir(proc)).filter(name => /^\d+$/.test(name))) {
		const folder = path.join(proc, pid);
		const descriptors = await fs.readdir(path.join(folder, 'fd')).catch(() => []);
		const links = await Promise.all(descriptors.map(fd => fs.readlink(path.join(folder, 'fd', fd)).catch(() => '')));
		const file = links.map(link => byPath.get(link)).find(open => open !== undefined);
		if (file === undefined || Number(pid) === process.pid) continue;
		const name = (await fs.readFile(path.join(folder, 'comm'), 'utf8').catch(() => '')).trim();
		found.push({file, pid: Number(pid), name});
	}
	const locks = await fs.readFile(path.join(proc, 'locks'), 'utf8').catch(() => '');
	for (const line of locks.split('\n')) {
		const {device, inode} =
			/OFDLCK +\S+ +\S+ +-?\d+ (?<device>[0-9a-f]+:[0-9a-f]+):(?<inode>\d+) /.exec(line)?.groups ?? {};
		const [high = '', low = ''] = device?.split(':') ?? [];
		const file = byInode.get(`${parseInt(high, 16)}:${parseInt(low, 16)}:${inode ?? ''}`);
		if (file !== undefined && !found.some(user => user.file === file)) found.push({file});
	}
	return found;
}

/** As glibc takes a device's number apart. */
function major(device: number): number {
	const bits = BigInt(device);
	return Number(((bits >> 8n) & 0xfffn) | ((bits >> 32n) & ~0xfffn));
}

function minor(device: number): number {
	const bits = BigInt(device);
	return Number((bits & 0xffn) | ((bits >> 12n) & ~0xffn & 0xffffffffn));
}
