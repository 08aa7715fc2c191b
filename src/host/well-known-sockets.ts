import type {Dirent} from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';

/** A socket found by its place and its name alone. */
export interface WellKnownSocket {
	readonly path: string;
	readonly role: 'monitor' | 'agent';
	/** What its file or folder is called after: on Proxmox the VM's number. */
	readonly vm: string;
}

/** Where Proxmox keeps `<vmid>.qmp` and `<vmid>.qga`, where scripts often put theirs, and libvirt's own. */
const FOLDERS = ['var/run/qemu-server', 'run/qemu', 'var/run/libvirt/qemu'];
/** libvirt has `channel/<vm>/<name>`. */
const MAX_DEPTH = 3;

const ROLE = /(?:^|[-_.])(?:(?<monitor>qmp)|(?<agent>qga|guest_agent|guest-agent|agent))(?=[-_.]|$)/;

/** Those under `root`, which is `/` but for tests. Folders that are missing or not for this user count as empty. */
export async function listWellKnownSockets(root = '/'): Promise<WellKnownSocket[]> {
	const found = await Promise.all(FOLDERS.map(folder => socketsIn(path.join(root, folder), MAX_DEPTH)));
	return found.flat();
}

/** What belongs to libvirt, which holds its monitors and will not share them. */
export function isLibvirts(socketPath: string): boolean {
	return /\/libvirt\/qemu\//.test(socketPath);
}

async function socketsIn(folder: string, depth: number): Promise<WellKnownSocket[]> {
	const entries: Dirent[] = await fs.readdir(folder, {withFileTypes: true}).catch(() => []);
	const found: WellKnownSocket[] = [];
	for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
		const entryPath = path.join(folder, entry.name);
		if (entry.isDirectory() && depth > 1) found.push(...(await socketsIn(entryPath, depth - 1)));
		const role = entry.isSocket() ? ROLE.exec(entry.name)?.groups : undefined;
		if (!role) continue;
		found.push({path: entryPath, role: role['monitor'] === undefined ? 'agent' : 'monitor', vm: vmOf(entryPath)});
	}
	return found;
}

/** `100` of `100.qmp`, `web` of `web-qmp.sock`, `qga-web.sock` and `web/qmp.sock`. */
function vmOf(socketPath: string): string {
	const name = path.basename(socketPath);
	const before = name.slice(0, name.search(ROLE));
	const after = name.replace(ROLE, '').replace(/\.(?:sock|socket|monitor|\d+)$/, '');
	const own = name.startsWith('org.qemu') ? '' : before || after.replace(/^[-_.]/, '');
	return own || path.basename(path.dirname(socketPath));
}
